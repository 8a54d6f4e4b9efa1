from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from skimage import filters

from methods.refinement.otsu import otsu_masks, otsu_thresholds, quantise

Golden = Callable[[str], dict[str, Any]]
scikit_image: Callable[[np.ndarray[Any, Any]], int] = filters.threshold_otsu


def _from_levels(levels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy((levels + 0.5) / 255).clamp(max=1)


class TestQuantise:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_every_level_comes_back(self, dtype: torch.dtype) -> None:
        levels = torch.arange(256)
        assert torch.equal(quantise(((levels + 0.5) / 255).clamp(max=1).to(dtype)), levels)

    def test_own_precision(self) -> None:
        assert quantise(torch.tensor([0.3], dtype=torch.float64) / 0.3 * (57 / 255)).item() == 57

    def test_refuses_integers(self) -> None:
        with pytest.raises(TypeError, match="uint8"):
            quantise(torch.zeros(3, dtype=torch.uint8))

    @pytest.mark.parametrize("value", [-0.01, 1.01])
    def test_refuses_values_outside(self, value: float) -> None:
        with pytest.raises(ValueError, match=rf"expected maps in 0\.\.1, got .*{value:g}"):
            quantise(torch.tensor([0.5, value]))


class TestOtsu:
    def test_smoke(self) -> None:
        thresholds, masks = otsu_thresholds(torch.rand(3, 4, 5)), otsu_masks(torch.rand(3, 4, 5))
        assert thresholds.shape == (3,)
        assert thresholds.dtype == torch.int64
        assert masks.shape == (3, 4, 5)
        assert masks.dtype == torch.bool
        assert otsu_thresholds(torch.rand(0, 4, 5)).shape == (0,)

    def test_golden_dips(self, golden: Golden) -> None:
        case = golden("dips")
        maps = torch.from_numpy(case["maps_1_4_heads_and_mean"]).flatten(0, 1)
        assert otsu_thresholds(maps).tolist() == case["otsu_threshold"].flatten().astype(int).tolist()
        assert torch.equal(otsu_masks(maps), torch.from_numpy(case["binary"]).flatten(0, 1).bool())

    def test_golden_fcam(self, golden: Golden) -> None:
        case = golden("fcam_seeds")
        maps = torch.from_numpy(case["cams"])[:, 0]
        assert otsu_thresholds(maps).tolist() == case["otsu_threshold"].tolist()
        assert torch.equal(otsu_masks(maps), torch.from_numpy(case["roi"]).bool())

    @limits(max_examples=30)
    @given(st.integers(0, 2**31), st.integers(1, 3))
    def test_agrees_with_scikit_image(self, seed: int, spread: int) -> None:
        levels = np.clip(np.random.default_rng(seed).normal(120, 40 * spread, (2, 9, 11)), 0, 255).astype(np.uint8)
        expected = [int(np.clip(scikit_image(image), 1, 254)) for image in levels]
        assert otsu_thresholds(_from_levels(levels)).tolist() == expected

    @limits(max_examples=30)
    @given(st.integers(0, 2**31))
    def test_one_map_at_a_time_is_the_same(self, seed: int) -> None:
        maps = torch.rand(4, 6, 7, generator=torch.Generator().manual_seed(seed)).square()
        assert otsu_thresholds(maps).tolist() == [otsu_thresholds(one[None]).item() for one in maps]

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_constant_has_no_foreground(self, value: float) -> None:
        maps = torch.full((1, 3, 3), value)
        assert otsu_thresholds(maps).tolist() == [-1]
        assert not otsu_masks(maps).any()

    def test_equal_splits_take_the_first(self) -> None:
        maps = _from_levels(np.array([[[10, 100, 190]]]))
        assert otsu_thresholds(maps).tolist() == [10]

    def test_clamped(self) -> None:
        assert otsu_thresholds(_from_levels(np.array([[[0, 1]], [[254, 255]]]))).tolist() == [1, 254]

    @pytest.mark.parametrize("function", [otsu_thresholds, otsu_masks])
    def test_refuses_nan(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        maps = torch.rand(2, 3, 3)
        maps[1, 1, 1] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            function(maps)

    @pytest.mark.parametrize("shape", [(3, 3), (1, 0, 3)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected maps \(P, H, W\)"):
            otsu_thresholds(torch.zeros(shape))
