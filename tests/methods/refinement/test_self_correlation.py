from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.refinement import RECURSEED, SLIDES, ScgConstants, correlate_levels, self_correlation

Golden = Callable[[str], dict[str, Any]]
PLAIN = {"first_threshold": 0.5, "second_threshold": 0.1, "second_weight": 1.0, "epsilon": 1e-10}


def _slow(features: Tensor, first: float, second: float, weight: float, order: int, epsilon: float) -> Tensor:
    """One image, straight from the formulas, in float64."""
    flat = features.flatten(1).double()
    flat = flat / (flat.norm(dim=0, keepdim=True) + 1e-10)
    s = (flat.T @ flat).clamp(min=0)
    s[s < first] = 0
    direct = s / (s.sum(0) + epsilon)
    t = s - torch.diag(s.diagonal())
    t = t / (t.sum(0) + epsilon)
    higher = t
    for _ in range(order - 1):
        higher = higher @ t
        higher = higher / (higher.sum(0) + 1e-10)
    higher = torch.where(higher < second / len(s), 0, higher)
    joint = torch.maximum(direct, weight * higher)
    return joint / (joint.sum(0) + 1e-10)


def _close_but_for_flips(found: Tensor, expected: Tensor, atol: float) -> None:
    """An entry within rounding of a threshold may flip: one in ten thousand, no more."""
    wrong = (found - expected).abs() > atol
    assert float(wrong.float().mean()) <= 1e-4, f"{int(wrong.sum())} of {wrong.numel()} entries differ"


class TestSelfCorrelation:
    def test_smoke(self) -> None:
        found = self_correlation(torch.rand(2, 8, 3, 4), **PLAIN)
        assert found.shape == (2, 12, 12)
        torch.testing.assert_close(found.sum(1), torch.ones(2, 12))

    @pytest.mark.parametrize("config", ["cub", "ilsvrc"])
    @pytest.mark.parametrize("level", ["4", "5"])
    def test_golden_spa(self, golden: Golden, config: str, level: str) -> None:
        case = golden("scg_spa")
        about = case["_meta"]["configs"][config]
        names = {"first_threshold": about["fosc_th"], "second_threshold": about["sosc_th"], "order": about["order"]}
        features = torch.from_numpy(case[f"feat{level}"])
        found = self_correlation(features, second_weight=about["so_weight"], epsilon=1e-5, **names)
        _close_but_for_flips(found, torch.from_numpy(case[f"{config}_hsc_{level}"]), 1e-7)
        # One order alone, normalised once more, is that order's golden normalised once more.
        first = self_correlation(features, second_weight=0.0, epsilon=1e-5, **names)
        direct = torch.from_numpy(case[f"{config}_sc1_{level}"])
        torch.testing.assert_close(first, direct / (direct.sum(1, keepdim=True) + 1e-10), rtol=0, atol=2e-7)
        higher = torch.from_numpy(case[f"{config}_sc2_{level}"])
        mostly = self_correlation(features, second_weight=1e6, epsilon=1e-5, **names)
        joint = torch.maximum(direct, 1e6 * higher)
        _close_but_for_flips(mostly, joint / (joint.sum(1, keepdim=True) + 1e-10), 2e-7)

    @pytest.mark.parametrize("config", ["cub", "ilsvrc"])
    def test_golden_spa_sum(self, golden: Golden, config: str) -> None:
        case = golden("scg_spa")
        about = case["_meta"]["configs"][config]
        constants = ScgConstants(about["fosc_th"], about["sosc_th"], about["so_weight"], 1e-5, 0.1, 0.05)
        levels = [torch.from_numpy(case[f"feat{level}"]) for level in (4, 5)]
        found = correlate_levels(levels, constants, order=about["order"])
        _close_but_for_flips(found, torch.from_numpy(case[f"{config}_hsc_sum"]), 2e-7)

    def test_golden_recurseed(self, golden: Golden) -> None:
        case = golden("scg_recurseed")
        about = case["_meta"]
        numbers = sorted(int(name.removeprefix("feat")) for name in case if name.startswith("feat"))
        levels = [torch.from_numpy(case[f"feat{number}"]) for number in numbers]
        constants = ScgConstants(about["first_th"], about["second_th"], about["second_weight"], 1e-10, 0.3, 0.05)
        order = about["iteration"] + 1
        _close_but_for_flips(correlate_levels(levels, constants, order=order), torch.from_numpy(case["hsc_sum"]), 2e-7)
        names = {"first_threshold": constants.first_threshold, "second_threshold": constants.second_threshold}
        for number, level in zip(numbers, levels, strict=True):
            direct, higher = (torch.from_numpy(case[f"sc{part}_{number}"]) for part in (1, 2))
            first = self_correlation(level, second_weight=0.0, epsilon=1e-10, order=order, **names)
            torch.testing.assert_close(first, direct / (direct.sum(1, keepdim=True) + 1e-10), rtol=0, atol=2e-7)
            mostly = self_correlation(level, second_weight=1e6, epsilon=1e-10, order=order, **names)
            joint = torch.maximum(direct, 1e6 * higher)
            _close_but_for_flips(mostly, joint / (joint.sum(1, keepdim=True) + 1e-10), 2e-7)

    @pytest.mark.parametrize("order", [1, 2, 3, 4])
    @pytest.mark.parametrize("block", [None, 5])
    def test_equal_to_the_formulas(self, order: int, block: int | None) -> None:
        torch.manual_seed(order)
        features = torch.randn(2, 6, 4, 5)
        found = self_correlation(
            features,
            first_threshold=0.2,
            second_threshold=0.3,
            second_weight=2.0,
            order=order,
            epsilon=1e-5,
            block=block,
        )
        for image, one in zip(features, found, strict=True):
            _close_but_for_flips(one, _slow(image, 0.2, 0.3, 2.0, order, 1e-5).float(), 1e-6)

    @given(seed=st.integers(0, 999))
    @settings(max_examples=10, deadline=None)
    def test_permutation_and_scale(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(1, 7, 1, 9, generator=generator)
        order = torch.randperm(9, generator=generator)
        found = self_correlation(features, **PLAIN)
        _close_but_for_flips(self_correlation(features[..., order], **PLAIN), found[:, order][:, :, order], 1e-6)
        _close_but_for_flips(self_correlation(37 * features, **PLAIN), found, 1e-6)

    def test_half_precision_is_computed_in_float32(self) -> None:
        features = torch.randn(1, 6, 3, 3).to(torch.bfloat16)
        torch.testing.assert_close(self_correlation(features, **PLAIN), self_correlation(features.float(), **PLAIN))

    def test_slides_differ_and_stay_normalised(self) -> None:
        features = torch.randn(1, 6, 4, 4)
        plain, slides = correlate_levels([features], RECURSEED), correlate_levels([features], SLIDES)
        assert not torch.allclose(plain, slides)
        torch.testing.assert_close(slides.sum(1), torch.ones(1, 16))
        torch.testing.assert_close(self_correlation(features, **PLAIN, slides=True, block=3), slides)

    def test_one_place_and_zeros(self) -> None:
        assert self_correlation(torch.ones(1, 4, 1, 1), **PLAIN).tolist() == [[[1.0]]]
        assert not self_correlation(torch.zeros(1, 4, 2, 2), **PLAIN).any()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_refuses_what_is_not_finite(self, value: float) -> None:
        features = torch.ones(1, 2, 2, 2)
        features[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match="expected finite features, got 1 of 8"):
            self_correlation(features, **PLAIN)

    def test_refuses_shapes_and_orders(self) -> None:
        with pytest.raises(ValueError, match=r"\[B, C, h, w\]"):
            self_correlation(torch.ones(2, 2, 2), **PLAIN)
        with pytest.raises(ValueError, match="order of at least 1"):
            self_correlation(torch.ones(1, 2, 2, 2), order=0, **PLAIN)
        with pytest.raises(ValueError, match="all on one grid"):
            correlate_levels([torch.ones(1, 2, 2, 2), torch.ones(1, 2, 3, 2)], RECURSEED)
