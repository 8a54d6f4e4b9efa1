from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.metrics.pixel_average_precision import PixelAveragePrecision, evaluation_mask

Golden = Callable[[str], dict[str, Any]]
STEPS = [(0.001, "s001"), (0.01, "s01")]


def _random(seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 1001, (3, 6, 7)) / 1000
    return scores, random.choice(np.array([0, 1, 255], np.uint8), scores.shape)


class TestPixelAveragePrecision:
    def test_smoke(self) -> None:
        precision = PixelAveragePrecision()
        precision.update(torch.rand(2, 5, 5, dtype=torch.float64), torch.ones(2, 5, 5, dtype=torch.uint8))
        assert precision.foreground.shape == precision.background.shape == (1002,)
        assert precision.foreground.dtype == np.int64
        assert (precision.images, precision.compute()["px_ap"]) == (2, pytest.approx(1))

    @pytest.mark.parametrize(("step", "suffix"), STEPS)
    def test_golden(self, golden: Golden, step: float, suffix: str) -> None:
        case = golden("wsol_mask")
        precision = PixelAveragePrecision(step)
        precision.update(case["scoremap_mask_q"] / 1000, case["mask_gt_224"])
        assert np.array_equal(precision.foreground, case[f"pxap_hist_true_{suffix}"])
        assert np.array_equal(precision.background, case[f"pxap_hist_false_{suffix}"])
        assert precision.compute()["px_ap"] * 100 == pytest.approx(case["_meta"][f"PxAP_{suffix}"], abs=1e-9)

    def test_golden_is_read_completely(self, golden: Golden) -> None:
        here = {"scoremap_mask_q", "mask_gt_224", "mask_instances", "mask_counts", "mask_ignore", "_meta"}
        assert set(golden("wsol_mask")) == here | {f"pxap_hist_{k}_{s}" for k in ("true", "false") for _, s in STEPS}

    @limits(max_examples=25)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.01, 0.1, 0.3, 1 / 3, 0.07]))
    def test_bins_are_those_of_a_histogram(self, seed: int, step: float) -> None:
        scores, truth = _random(seed)
        precision = PixelAveragePrecision(step)
        precision.update(scores, truth)
        assert np.array_equal(precision.foreground, np.histogram(scores[truth == 1], precision.edges)[0])
        assert np.array_equal(precision.background, np.histogram(scores[truth == 0], precision.edges)[0])

    @limits(max_examples=15)
    @given(st.integers(0, 2**32 - 1), st.permutations(range(3)))
    def test_merging_in_any_order_is_one_pass(self, seed: int, order: list[int]) -> None:
        scores, truth = _random(seed)
        whole, merged = PixelAveragePrecision(), PixelAveragePrecision()
        whole.update(scores, truth)
        for place in order:
            part = PixelAveragePrecision()
            part.update(scores[place : place + 1], truth[place : place + 1])
            merged.merge(part)
        assert np.array_equal(merged.foreground, whole.foreground)
        assert np.array_equal(merged.background, whole.background)
        np.testing.assert_equal(merged.compute(), whole.compute())

    def test_by_hand(self) -> None:
        precision = PixelAveragePrecision(0.1)
        scores = np.array([[[0.95, 0.85, 0.75, 0.65, 0.05]]])
        precision.update(scores, np.array([[[1, 0, 1, 255, 0]]], np.uint8))
        assert precision.compute()["px_ap"] == pytest.approx(1 / 2 + 2 / 3 / 2)

    def test_constant_map_has_the_share_of_foreground(self) -> None:
        precision = PixelAveragePrecision()
        precision.update(np.zeros((1, 2, 2)), np.array([[[1, 0], [0, 0]]], np.uint8))
        assert precision.compute()["px_ap"] == pytest.approx(0.25)

    def test_without_foreground_undefined(self) -> None:
        precision = PixelAveragePrecision()
        assert np.isnan(precision.compute()["px_ap"])
        precision.update(np.ones((1, 1, 1)), np.zeros((1, 1, 1), np.uint8))
        assert np.isnan(precision.compute()["px_ap"])

    @pytest.mark.parametrize(
        ("scores", "truth", "error", "message"),
        [
            (np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2), np.uint8), ValueError, "finite scores"),
            (np.full((1, 2, 2), 1.1), np.zeros((1, 2, 2), np.uint8), ValueError, "finite scores"),
            (np.ones((1, 2, 2)), np.full((1, 2, 2), 2, np.uint8), ValueError, r"0, 1 or 255, found \[2\]"),
            (np.ones((1, 2, 2)), np.zeros((1, 2, 3), np.uint8), ValueError, r"\(B, H, W\)"),
            (np.ones((1, 2, 2), int), np.zeros((1, 2, 2), np.uint8), TypeError, "floating point"),
            (np.ones((1, 2, 2)), np.zeros((1, 2, 2)), TypeError, "uint8, got float64"),
        ],
    )
    def test_refusals_leave_the_counts_alone(
        self, scores: Any, truth: Any, error: type[Exception], message: str
    ) -> None:
        precision = PixelAveragePrecision()
        with pytest.raises(error, match=message):
            precision.update(scores, truth)
        assert precision.images == 0
        assert not precision.foreground.any()

    @pytest.mark.parametrize("step", [0, 1, -0.1])
    def test_refuses_steps(self, step: float) -> None:
        with pytest.raises(ValueError, match="step between 0 and 1"):
            PixelAveragePrecision(step)

    def test_refuses_to_merge_other_steps(self) -> None:
        with pytest.raises(ValueError, match=r"step of 0\.1, got 0\.001"):
            PixelAveragePrecision(0.1).merge(PixelAveragePrecision())


class TestEvaluationMask:
    def test_golden(self, golden: Golden) -> None:
        case = golden("wsol_mask")
        size = case["mask_gt_224"].shape[1:]
        for instances, count, ignore, expected in zip(
            case["mask_instances"], case["mask_counts"], case["mask_ignore"], case["mask_gt_224"], strict=True
        ):
            assert np.array_equal(evaluation_mask(instances[:count], ignore, size), expected)

    def test_no_instance_is_background(self) -> None:
        assert not evaluation_mask(np.zeros((0, 3, 5))).any()

    def test_refuses_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"instances \(n, H, W\)"):
            evaluation_mask(np.zeros((3, 5)))
        with pytest.raises(ValueError, match=r"ignore \(3, 5\), got shape \(5, 3\)"):
            evaluation_mask(np.zeros((1, 3, 5)), np.zeros((5, 3)))
