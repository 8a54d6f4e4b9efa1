import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional as F

from configs.proposals import Proposal
from methods.activation import fuse, grad_cam, layer_cam, min_max, multi_scale, record, score_cam, truncate
from methods.networks import ClassifierNetwork, build_classifier, class_maps
from tasks.images import probe_images
from tasks.maps import MapMaker, map_grid

PAIRS = torch.tensor([[0, 1], [1, 2], [1, 0]])
EVERY: list[dict[str, Any]] = [
    {"method": "grad_cam"},
    {"method": "grad_cam_plus_plus", "layers": ["S4", "S5"], "fuse": "mean_norm"},
    {"method": "xgrad_cam", "layers": ["S3"], "truncation": 20, "population": "layer"},
    {"method": "layer_cam", "layers": ["S3", "S4", "S5"], "truncation": 0},
    {"method": "cam"},
    {"method": "multi_scale_cam"},
    {"method": "multi_scale_cam", "scales": [1.0, 0.5], "flip": False, "rectify": False},
    {"method": "full_grad"},
    {"method": "full_grad", "truncation": 0},
    {"method": "smooth_grad_cam_plus_plus", "layers": ["S4", "S5"], "samples": 2},
    {"method": "score_cam", "max_maps": 6},
    {"method": "ablation_cam", "max_maps": 6, "layers": ["S4", "S5"], "fuse": "max_tanh"},
    {"method": "ss_cam", "samples": 2, "max_maps": 4},
    {"method": "is_cam", "samples": 2, "max_maps": 4},
]


def _proposal(settings: dict[str, Any]) -> Proposal:
    made: Proposal = TypeAdapter(Proposal).validate_python(settings)
    return made


@pytest.fixture(scope="module")
def network() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 3)
    made.model.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return probe_images(64, torch.device("cpu"))


class TestMapMaker:
    def test_every_method_at_its_grid(self, network: ClassifierNetwork, images: Tensor) -> None:
        proposals = [_proposal(one) for one in EVERY]
        seen, maps = MapMaker(network)(images, PAIRS, proposals)
        torch.testing.assert_close(seen.logits, network.model(images))
        for one, found in zip(proposals, maps, strict=True):
            assert found.shape == (3, *map_grid(network, one, images)), one.title
            assert found.dtype == torch.float32
            assert found.isfinite().all()
            assert found.abs().sum() > 0, one.title

    def test_equal_to_the_methods_alone(self, network: ClassifierNetwork, images: Tensor) -> None:
        proposals = [_proposal(EVERY[place]) for place in (0, 3, 10)]
        _, (plain, layered, masked) = MapMaker(network)(images, PAIRS, proposals)
        stages = [network.stages[stage] for stage in ("S3", "S4", "S5")]
        seen = record(network.model, images, PAIRS, stages)
        torch.testing.assert_close(plain, grad_cam(*seen.paired(stages[2])))
        parts = [layer_cam(seen.paired(s)[0], truncate(seen.gradients[s], 0)) for s in stages]
        torch.testing.assert_close(layered, fuse(parts, layered.shape[1:]))  # type: ignore[arg-type]
        torch.testing.assert_close(masked, score_cam(network.model, images, PAIRS, stages[2], max_maps=6))

    def test_class_activation_map_is_grad_cam_up_to_scale(self, network: ClassifierNetwork, images: Tensor) -> None:
        _, (cam, grad) = MapMaker(network)(
            images, PAIRS, [_proposal({"method": "cam", "rectify": True}), _proposal({"method": "grad_cam"})]
        )
        torch.testing.assert_close(min_max(cam), min_max(grad))

    def test_maps_of_several_scales_are_those_of_the_method(self, network: ClassifierNetwork, images: Tensor) -> None:
        _, (maps,) = MapMaker(network)(images, PAIRS, [_proposal({"method": "multi_scale_cam"})])
        expected = multi_scale(images, lambda views: class_maps(network, views)[0]).coarse
        torch.testing.assert_close(maps, expected[PAIRS[:, 0], PAIRS[:, 1]])
        assert maps.min() >= 0

    def test_one_scale_alone_is_the_class_map(self, network: ClassifierNetwork, images: Tensor) -> None:
        one = {"method": "multi_scale_cam", "scales": [1.0], "flip": False, "rectify": False}
        _, (maps, plain) = MapMaker(network)(images, PAIRS, [_proposal(one), _proposal({"method": "cam"})])
        expected = F.interpolate(plain[None], (16, 16), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
        assert (maps < 0).any()

    def test_mirror_images_have_mirrored_maps(self, network: ClassifierNetwork, images: Tensor) -> None:
        proposals = [_proposal({"method": "multi_scale_cam", "scales": [1.0, 1.5]})]
        straight, mirrored = (MapMaker(network)(one, PAIRS, proposals)[1][0] for one in (images, images.flip(3)))
        torch.testing.assert_close(straight, mirrored.flip(2), rtol=1e-4, atol=1e-5)

    def test_several_scales_in_half_precision(self, network: ClassifierNetwork, images: Tensor) -> None:
        proposals = [_proposal({"method": "multi_scale_cam"})]
        half = replace(network, model=copy.deepcopy(network.model).to(torch.bfloat16))
        _, (exact,) = MapMaker(network)(images, PAIRS, proposals)
        _, (rough,) = MapMaker(half)(images.to(torch.bfloat16), PAIRS, proposals)
        assert (exact - rough).abs().max() < 0.05 * exact.max()

    def test_an_image_alone_gives_the_same(self, network: ClassifierNetwork, images: Tensor) -> None:
        proposals = [_proposal(one) for one in EVERY]
        maker = MapMaker(network)
        together = maker(images, PAIRS, proposals)[1]
        alone = maker(images[1:], torch.tensor([[0, 2], [0, 0]]), proposals)[1]
        for one, both, single in zip(proposals, together, alone, strict=True):
            scale = float(both[1:].abs().max())
            torch.testing.assert_close(single, both[1:], atol=1e-4 * scale, rtol=1e-4, msg=one.title)

    def test_no_pairs(self, network: ClassifierNetwork, images: Tensor) -> None:
        seen, maps = MapMaker(network)(images, torch.zeros(0, 2, dtype=torch.int64), [_proposal(EVERY[0])])
        assert seen.logits.shape == (2, 3)
        assert maps == []


class TestMapGrid:
    def test_largest_layer_and_image(self, network: ClassifierNetwork, images: Tensor) -> None:
        assert map_grid(network, _proposal({"method": "full_grad"}), images) == (64, 64)
        assert map_grid(network, _proposal({"method": "grad_cam", "layers": ["S3", "S5"]}), images) == map_grid(
            network, _proposal({"method": "grad_cam", "layers": ["S3"]}), images
        )

    def test_several_scales_have_a_quarter_of_the_sides(self, network: ClassifierNetwork) -> None:
        proposal = _proposal({"method": "multi_scale_cam", "scales": [2.0]})
        assert map_grid(network, proposal, torch.rand(1, 3, 65, 94)) == (17, 24)

    @pytest.mark.parametrize("method", ["cam", "multi_scale_cam"])
    def test_class_maps_need_a_head_on_the_average(self, images: Tensor, method: str) -> None:
        native = build_classifier("vgg16", 3, head="native")
        native.model.eval()
        message = rf"proposals: {method}: expected a linear head right on the average of S5, vgg16"
        with pytest.raises(ValueError, match=message):
            map_grid(native, _proposal({"method": method}), images)

    def test_unknown_layer(self, network: ClassifierNetwork, images: Tensor) -> None:
        with pytest.raises(ValueError, match="S9"):
            map_grid(network, _proposal({"method": "grad_cam", "layers": ["S9"]}), images)
