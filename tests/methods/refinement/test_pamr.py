from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from methods.refinement import pamr
from methods.refinement.neighbour_matrix import sparse_products
from methods.refinement.pamr import MANY_MAPS, colour_affinity, local_spread

Golden = Callable[[str], dict[str, Any]]
INPUTS = {"image", "mask_lowres", "_meta"}


def _corners(values: Tensor, size: tuple[int, ...]) -> Tensor:
    return interpolate(values, size=size, mode="bilinear", align_corners=True)


@pytest.fixture
def case(golden: Golden) -> dict[str, Any]:
    """The golden case with tensors."""
    return {name: torch.from_numpy(value) if name != "_meta" else value for name, value in golden("pamr").items()}


class TestPamr:
    def test_golden_every_array_is_checked(self, case: dict[str, Any]) -> None:
        parts = {"std", "aff_first_image_every3", "out", "out_iter1"}
        checked = {f"{name}_{part}" for name in case["_meta"]["configs"] for part in parts}
        assert set(case) == INPUTS | checked | {"mask_upsampled", "run_pamr_image_down", "run_pamr_out"}

    def test_golden(self, case: dict[str, Any]) -> None:
        image = case["image"]
        masks = _corners(case["mask_lowres"], image.shape[2:])
        torch.testing.assert_close(masks, case["mask_upsampled"], rtol=0, atol=1e-6)
        for name, about in case["_meta"]["configs"].items():
            dilations = about["dilations"]
            torch.testing.assert_close(local_spread(image, dilations), case[f"{name}_std"], rtol=0, atol=1e-6)
            weights = colour_affinity(image, dilations)[0, :, ::3, ::3]
            torch.testing.assert_close(weights, case[f"{name}_aff_first_image_every3"], rtol=0, atol=1e-6)
            once = pamr(image, masks, iterations=1, dilations=dilations)
            torch.testing.assert_close(once, case[f"{name}_out_iter1"], rtol=0, atol=1e-6)
            found = pamr(image, masks, iterations=about["num_iter"], dilations=dilations)
            torch.testing.assert_close(found, case[f"{name}_out"], rtol=0, atol=5e-6)

    def test_golden_at_the_size_of_the_masks(self, case: dict[str, Any]) -> None:
        small = _corners(case["image"], case["mask_lowres"].shape[2:])
        torch.testing.assert_close(small, case["run_pamr_image_down"], rtol=0, atol=1e-6)
        about = case["_meta"]["configs"]
        found = [
            pamr(small, case["mask_lowres"], iterations=one["num_iter"], dilations=one["dilations"])
            for one in about.values()
        ]
        best = min(float((one - case["run_pamr_out"]).abs().max()) for one in found)
        assert best <= 5e-6

    @given(seed=st.integers(0, 999), value=st.floats(0, 1))
    @settings(max_examples=10, deadline=None)
    def test_constant_maps_stay_and_values_stay_in_range(self, seed: int, value: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(1, 3, 9, 13, generator=generator)
        masks = torch.rand(1, 2, 9, 13, generator=generator)
        masks[:, 1] = value
        found = pamr(image, masks, iterations=4, dilations=(1, 3))
        torch.testing.assert_close(found[:, 1], masks[:, 1])
        assert float(found[:, 0].min()) >= float(masks[:, 0].min()) - 1e-6
        assert float(found[:, 0].max()) <= float(masks[:, 0].max()) + 1e-6

    @given(seed=st.integers(0, 999), tile=st.integers(4, 30))
    @settings(max_examples=8, deadline=None)
    def test_tiles_equal_the_whole(self, seed: int, tile: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(2, 3, 26, 41, generator=generator)
        masks = torch.rand(2, 2, 26, 41, generator=generator)
        whole = pamr(image, masks, iterations=3, dilations=(1, 2))
        torch.testing.assert_close(
            pamr(image, masks, iterations=3, dilations=(1, 2), tile=tile), whole, rtol=0, atol=1e-6
        )

    def test_channels_are_independent(self) -> None:
        image, masks = torch.rand(1, 3, 12, 12), torch.rand(1, 5, 12, 12)
        whole = pamr(image, masks, iterations=3)
        torch.testing.assert_close(pamr(image, masks[:, [3, 1]], iterations=3), whole[:, [3, 1]])

    @pytest.mark.parametrize("sparse", [True, False])
    def test_many_maps_at_once_are_each_alone(self, sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        # By its name: the package has a function of the module's name.
        module = import_module("methods.refinement.pamr")
        monkeypatch.setattr(module, "sparse_products", lambda: sparse and sparse_products())
        image, masks = torch.rand(2, 3, 30, 33), torch.rand(2, MANY_MAPS + 1, 30, 33)
        whole = pamr(image, masks, iterations=3, dilations=(1, 4, 24))
        for place in range(masks.shape[1]):
            one = pamr(image, masks[:, place, None], iterations=3, dilations=(1, 4, 24))
            torch.testing.assert_close(whole[:, place, None], one, rtol=0, atol=5e-6)
        tiled = pamr(image, masks, iterations=3, dilations=(1, 2), tile=11)
        torch.testing.assert_close(tiled, pamr(image, masks, iterations=3, dilations=(1, 2)), rtol=0, atol=1e-6)

    def test_golden_with_many_maps(self, case: dict[str, Any]) -> None:
        masks = case["mask_upsampled"].repeat(1, MANY_MAPS, 1, 1)
        for name, about in case["_meta"]["configs"].items():
            found = pamr(case["image"], masks, iterations=about["num_iter"], dilations=about["dilations"])
            expected = case[f"{name}_out"].repeat(1, MANY_MAPS, 1, 1)
            torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)

    def test_flat_image_averages_evenly(self) -> None:
        masks = torch.zeros(1, 1, 5, 5)
        masks[0, 0, 2, 2] = 1
        found = pamr(torch.full((1, 3, 5, 5), 0.4), masks, iterations=1, dilations=[1])
        torch.testing.assert_close(found[0, 0, 1:4, 1:4].flatten().tolist(), [0.125] * 4 + [0.0] + [0.125] * 4)

    def test_one_pixel_no_class_no_gradient(self) -> None:
        one = torch.full((1, 1, 1, 1), 0.3, requires_grad=True)
        found = pamr(torch.rand(1, 3, 1, 1), one)
        torch.testing.assert_close(found, one.detach())
        assert not found.requires_grad
        assert pamr(torch.rand(2, 3, 4, 4), torch.zeros(2, 0, 4, 4)).shape == (2, 0, 4, 4)

    def test_wide_image(self) -> None:
        image, masks = torch.rand(1, 3, 6, 4000), torch.rand(1, 1, 6, 4000)
        whole = pamr(image, masks, iterations=2)
        torch.testing.assert_close(pamr(image, masks, iterations=2, tile=700), whole, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("image", "mask", "message"),
        [
            (torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 5), "of one size"),
            (torch.rand(2, 3, 4, 4), torch.rand(1, 1, 4, 4), "of one size"),
            (torch.rand(3, 4, 4), torch.rand(1, 1, 4, 4), "of one size"),
            (255 * torch.ones(1, 3, 4, 4), torch.rand(1, 1, 4, 4), "divide 8-bit by 255"),
            (torch.rand(1, 3, 2, 2), torch.full((1, 1, 2, 2), torch.nan), "finite masks, got 4 of 4"),
            (torch.full((1, 3, 2, 2), torch.inf), torch.rand(1, 1, 2, 2), "finite images"),
        ],
    )
    def test_refuses(self, image: Tensor, mask: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            pamr(image, mask)

    @pytest.mark.parametrize("options", [{"iterations": -1}, {"dilations": ()}, {"dilations": (0,)}, {"tile": 0}])
    def test_refuses_options(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="expected iterations"):
            pamr(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4), **options)
