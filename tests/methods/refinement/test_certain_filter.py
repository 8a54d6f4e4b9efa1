from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.refinement.certain_filter import certain_filter

Golden = Callable[[str], dict[str, Any]]
IGNORE = 255
MIXING = {"images", "rs_maps", "perm", "fg_mask", "mix_images", "mix_labels", "mix_rs"} | {
    "l1_mean",
    "logits",
    "ce_ignore255",
}
"""The arrays of the golden case that are about mixing and losses, not about the filter."""
FILTER = {"M_rs", "cf_labels", "cf_labels_paper", "image_labels", "cf_labels_masked_by_image_labels", "_meta"}


class TestCertainFilter:
    def test_smoke(self) -> None:
        labels = certain_filter(torch.rand(2, 3, 4, 5))
        assert labels.shape == (2, 4, 5)
        assert labels.dtype == torch.uint8

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        assert set(golden("recurseed_cf_mix")) == FILTER | MIXING

    def test_golden(self, golden: Golden) -> None:
        case = golden("recurseed_cf_mix")
        about, maps = case["_meta"], torch.from_numpy(case["M_rs"])
        own = {"foreground": about["delta_fg"], "background": about["delta_bg"]}
        assert torch.equal(certain_filter(maps, **own), torch.from_numpy(case["cf_labels"]))
        present = torch.from_numpy(case["image_labels"])[:, :, None, None]
        expected = torch.from_numpy(case["cf_labels_masked_by_image_labels"])
        assert torch.equal(certain_filter(maps * present, **own), expected)
        paper = {"foreground": about["delta_fg_paper"], "background": about["delta_bg_paper"]}
        assert torch.equal(certain_filter(maps, **paper), torch.from_numpy(case["cf_labels_paper"]))

    @pytest.mark.parametrize(("score", "label"), [(0.551, 1), (0.55, IGNORE), (0.10, IGNORE), (0.099, 0)])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_bounds_are_strict(self, score: float, label: int, dtype: torch.dtype) -> None:
        assert certain_filter(torch.full((1, 1, 1, 1), score, dtype=dtype)).item() == label

    @given(classes=st.integers(1, 5), seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_permuting_classes_permutes_labels(self, classes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(1, classes, 6, 6, generator=generator)
        order = torch.randperm(classes, generator=generator)
        renamed = torch.full((256,), IGNORE, dtype=torch.uint8)
        renamed[0] = 0
        renamed[1 : classes + 1] = (order.argsort() + 1).to(torch.uint8)
        expected = renamed[certain_filter(maps).long()]
        assert torch.equal(certain_filter(maps[:, order]), expected)

    @given(seed=st.integers(0, 2**31), low=st.floats(0, 1), high=st.floats(0, 1))
    @settings(max_examples=15, deadline=None)
    def test_wider_bounds_only_take_labels_away(self, seed: int, low: float, high: float) -> None:
        maps = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        low, high = sorted((low, high))
        inner = certain_filter(maps, foreground=(low + high) / 2, background=(low + high) / 2)
        outer = certain_filter(maps, foreground=high, background=low)
        assert torch.equal(outer[outer != IGNORE], inner[outer != IGNORE])

    def test_equal_scores_take_the_first_class(self) -> None:
        assert certain_filter(torch.ones(1, 254, 1, 1)).item() == 1

    def test_the_last_class_is_not_ignore(self) -> None:
        maps = torch.zeros(1, 254, 1, 1)
        maps[0, 253] = 1
        assert certain_filter(maps).item() == 254

    @pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 2, 0, 4), (1, 1, 1, 1), (1, 2, 3, 4000)])
    def test_sizes(self, shape: tuple[int, ...]) -> None:
        assert certain_filter(torch.zeros(shape)).shape == (shape[0], *shape[2:])
        assert not certain_filter(torch.zeros(shape)).any()

    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_refuses_values_that_are_not_finite(self, value: str) -> None:
        maps = torch.rand(1, 2, 3, 3)
        maps[0, 1, 2, 2] = float(value)
        with pytest.raises(ValueError, match="1 of 18 values"):
            certain_filter(maps)

    def test_refuses_integers(self) -> None:
        with pytest.raises(TypeError, match="uint8"):
            certain_filter(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))

    def test_refuses_bounds_out_of_order(self) -> None:
        with pytest.raises(ValueError, match=r"background=0\.6, foreground=0\.5"):
            certain_filter(torch.rand(1, 1, 2, 2), foreground=0.5, background=0.6)

    @pytest.mark.parametrize("shape", [(2, 3, 3), (1, 0, 3, 3), (1, 255, 3, 3)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="1 to 254 classes"):
            certain_filter(torch.zeros(shape))
