import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d, max_unpool2d

from methods.activation import record
from methods.networks import BackboneError, build_classifier, pooled_features

SIDES = {"inception_v3": 96}
STAGES = {
    "small": [f"stages.{i}" for i in range(5)],
    "vgg16": [f"features.{i}" for i in (4, 9, 16, 23, 30)],
    "resnet18": ["maxpool", "layer1", "layer2", "layer3", "layer4"],
    "resnet50": ["maxpool", "layer1", "layer2", "layer3", "layer4"],
    "inception_v3": ["maxpool1", "maxpool2", "Mixed_5d", "Mixed_6e", "Mixed_7c"],
    "squeezenet1_1": [f"features.{i}" for i in (2, 5, 8, 10, 12)],
    "mobilenet_v2": [f"features.{i}" for i in (1, 3, 6, 13, 18)],
}


class TestBuildClassifier:
    @pytest.mark.parametrize("backbone", STAGES)
    def test_smoke(self, backbone: str) -> None:
        network = build_classifier(backbone, 3)
        side = SIDES.get(backbone, 64)
        shapes: list[tuple[int, ...]] = []
        for name in network.stages.values():
            network.model.get_submodule(name).register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
        with torch.no_grad():
            logits = network.model(torch.rand(2, 3, side, side))
        assert logits.shape == (2, 3)
        assert network.stages == {f"S{i}": name for i, name in enumerate(STAGES[backbone], start=1)}
        assert [len(shape) for shape in shapes] == [4] * 5
        sides = [shape[-1] for shape in shapes]
        assert sides == sorted(sides, reverse=True)
        head = network.model.get_submodule(network.head)
        assert isinstance(head, nn.Linear)
        assert head.out_features == 3
        assert head.in_features == shapes[-1][1]
        assert not network.model.training
        assert not any(value.is_meta for value in network.model.state_dict().values())

    @pytest.mark.parametrize("backbone", [*STAGES, "resnet10t"])
    def test_stages_are_recorded_and_the_gap_head_averages_the_last(self, backbone: str) -> None:
        # What makes CAM, the head's weights times the last stage, the map of a logit.
        network = build_classifier(backbone, 3)
        side = SIDES.get(backbone, 64)
        images, pairs = torch.randn(2, 3, side, side), torch.tensor([[0, 1], [1, 2], [0, 0]])
        found = record(network.model, images, pairs, list(network.stages.values()))
        assert [gradients.ndim for gradients in found.gradients.values()] == [4] * 5
        head = network.model.get_submodule(network.head)
        torch.testing.assert_close(head(found.activations[network.stages["S5"]].mean((2, 3))), found.logits)

    @pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "convnext_atto"])
    def test_stages_of_other_heads_are_recorded(self, backbone: str) -> None:
        # Layers lie between the last stage and the head: gradient CAMs work, CAM is not defined.
        network = build_classifier(backbone, 3, head="native")
        images, pairs = torch.randn(2, 3, 64, 64), torch.tensor([[0, 1], [1, 2]])
        found = record(network.model, images, pairs, list(network.stages.values()))
        last, seen = found.activations[network.stages["S5"]].mean((2, 3)), pooled_features(network, images)
        assert last.shape != seen.shape or not torch.allclose(last, seen, rtol=0.1)

    @pytest.mark.parametrize("head", ["gap", pytest.param("native", marks=pytest.mark.slow)])
    def test_vgg_before_its_pools(self, head: str) -> None:
        network = build_classifier("vgg16", 3, head=head)
        assert network.pre_pool == {f"S{i}_pre": f"features.{n}" for i, n in enumerate((3, 8, 15, 22, 29), start=1)}
        both = [*network.pre_pool.values(), *network.stages.values()]
        images, pairs = torch.randn(2, 3, 64, 64), torch.tensor([[0, 1], [1, 2], [0, 0]])
        found = record(network.model, images, pairs, ["features.28", *both])
        assert found.activations["features.28"].min() < 0
        assert torch.equal(found.activations["features.28"].relu(), found.activations["features.29"])
        for pre, post in zip(network.pre_pool.values(), network.stages.values(), strict=True):
            pooled, places = max_pool2d(found.paired(pre)[0], 2, return_indices=True)
            assert torch.equal(pooled, found.paired(post)[0])
            # Only the largest of four has a gradient, that of the pool: at least three in four are zero.
            assert torch.equal(max_unpool2d(found.gradients[post], places, 2), found.gradients[pre])
            alive = found.gradients[post].count_nonzero()
            assert 0 < found.gradients[pre].count_nonzero() == alive <= found.gradients[pre].numel() / 4

    def test_only_vgg_has_names_before_pools(self) -> None:
        assert build_classifier("resnet18", 3).pre_pool == build_classifier("small", 3).pre_pool == {}

    def test_native_squeezenet_ends_in_a_convolution(self) -> None:
        network = build_classifier("squeezenet1_1", 3, head="native")
        assert isinstance(network.model.get_submodule(network.head), nn.Conv2d)
        assert network.model(torch.rand(1, 3, 64, 64)).shape == (1, 3)

    @pytest.mark.slow
    def test_native_vgg_keeps_its_layers(self) -> None:
        network = build_classifier("vgg16", 3, head="native")
        assert network.head == "classifier.6"
        assert network.model.get_submodule("classifier.0").weight.shape == (4096, 25088)

    @pytest.mark.parametrize(
        ("backbone", "stages"),
        [
            ("resnet10t", {"S1": "act1", "S2": "layer1", "S3": "layer2", "S4": "layer3", "S5": "layer4"}),
            ("convnext_atto", {"S2": "stages.0", "S3": "stages.1", "S4": "stages.2", "S5": "stages.3"}),
        ],
    )
    def test_timm(self, backbone: str, stages: dict[str, str]) -> None:
        network = build_classifier(backbone, 3)
        assert network.stages == stages
        assert network.model(torch.rand(1, 3, 64, 64)).shape == (1, 3)

    @pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
    def test_refuses_networks_without_spatial_features(self, backbone: str) -> None:
        with pytest.raises(BackboneError, match=rf"{backbone}.*(convolutional|head)"):
            build_classifier(backbone, 3, head="native")

    def test_refuses_a_gap_head_where_layers_lie_between(self) -> None:
        with pytest.raises(BackboneError, match=r"mobilenetv3_small_050.*head: native"):
            build_classifier("mobilenetv3_small_050", 3)
        assert build_classifier("mobilenetv3_small_050", 3, head="native").head == "classifier"

    def test_refuses_unknown_names_and_shows_close_ones(self) -> None:
        with pytest.raises(BackboneError, match=r"'resnet5O'.*close names: resnet50"):
            build_classifier("resnet5O", 3)

    def test_refuses_no_class(self) -> None:
        with pytest.raises(ValueError, match="at least one class, got 0"):
            build_classifier("small", 0)

    def test_refuses_other_heads(self) -> None:
        with pytest.raises(ValueError, match="gap or native, got 'linear'"):
            build_classifier("small", 2, head="linear")  # type: ignore[arg-type]
