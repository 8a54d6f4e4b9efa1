import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.metrics import image_foreground_counts, pair_counts, segmentation_metrics
from methods.metrics.bootstrap import bootstrap_interval, mean_iou, mean_ratio, pooled_iou

Golden = Callable[[str], dict[str, Any]]


def _counts(seed: int, images: int = 12) -> Any:
    return np.random.default_rng(seed).integers(0, 50, (images, 4))


def _confusions(seed: int, images: int = 9, classes: int = 3) -> Any:
    counts = np.random.default_rng(seed).integers(0, 50, (images, classes, classes + 1))
    counts[:, -1] = counts[:, :, classes - 1] = 0
    return counts


class TestBootstrapInterval:
    def test_smoke(self) -> None:
        found = bootstrap_interval(_counts(0), pooled_iou)
        assert isinstance(found.value, float)
        assert 0 < found.low < found.value < found.high < 1

    def test_golden(self, golden: Golden) -> None:
        case = golden("segmetrics")
        classes = case["_meta"]["num_classes"]
        foreground = image_foreground_counts(case["pred"], case["gt"], classes)
        confusions = np.array([pair_counts(*one, classes) for one in zip(case["pred"], case["gt"], strict=True)])
        shares = case["binary_iou_per_image"]
        assert bootstrap_interval(foreground, pooled_iou).value == pytest.approx(case["binary_iou"], abs=1e-9)
        miou = case["puzzle_miou_percent"] / 100
        assert bootstrap_interval(confusions, mean_iou).value == pytest.approx(miou, abs=1e-6)
        means = bootstrap_interval(np.stack([shares, np.ones_like(shares)], axis=1), mean_ratio)
        assert means.value == pytest.approx(shares.mean(), abs=1e-12)
        assert shares.min() <= means.low <= means.value <= means.high <= shares.max()

    @limits(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9, 0.95]))
    def test_equals_a_loop_over_the_sets(self, seed: int, level: float) -> None:
        counts, random = _confusions(seed), np.random.default_rng(seed)
        drawn = [segmentation_metrics(counts[random.integers(9, size=9)].sum(axis=0))["miou"] for _ in range(40)]
        found = bootstrap_interval(counts, mean_iou, 40, level, seed)
        np.testing.assert_allclose([found.low, found.high], np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
        assert found.value == pytest.approx(segmentation_metrics(counts.sum(axis=0))["miou"])

    def test_covers_what_it_says(self) -> None:
        # 95 % intervals of 200 samples of a mean of 0.3: 185 to 195 is what percentile intervals of 60 images reach.
        inside = 0
        for seed in range(200):
            hits = np.random.default_rng(seed).random(60) < 0.3
            found = bootstrap_interval(np.stack([hits, np.ones(60)], axis=1), mean_ratio, 300, seed=seed)
            inside += found.low <= 0.3 <= found.high
        assert 180 <= inside <= 198

    def test_blocks_do_not_change_the_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = bootstrap_interval(_counts(3), pooled_iou, 50)
        monkeypatch.setattr("methods.metrics.bootstrap.BLOCK", 40)
        assert bootstrap_interval(_counts(3), pooled_iou, 50) == whole

    def test_seed_decides(self) -> None:
        one, same, other = (bootstrap_interval(_counts(1), pooled_iou, seed=seed) for seed in (5, 5, 6))
        assert one == same != other

    def test_one_image_is_certain(self) -> None:
        found = bootstrap_interval(np.array([[3, 1, 0, 5]]), pooled_iou)
        assert found == (0.75, 0.75, 0.75)

    def test_undefined_sets_are_left_out(self) -> None:
        counts = np.zeros((5, 4), int)
        counts[0] = [1, 1, 0, 0]
        assert bootstrap_interval(counts, pooled_iou) == (0.5, 0.5, 0.5)
        assert np.isnan(bootstrap_interval(np.zeros((5, 4), int), pooled_iou)).all()

    def test_several_numbers_at_once(self) -> None:
        found = bootstrap_interval(_counts(2), lambda sums: np.stack([pooled_iou(sums), sums[:, 0]], axis=1))
        assert found.low.shape == found.value.shape == (2,)
        assert found.low[0] == bootstrap_interval(_counts(2), pooled_iou).low

    def test_a_large_set_takes_a_moment(self) -> None:
        began = time.process_time()
        bootstrap_interval(_counts(0, 6000), pooled_iou)
        assert time.process_time() - began < 5

    @pytest.mark.parametrize(
        ("counts", "options", "message"),
        [
            (np.zeros((0, 4)), {}, "at least one image"),
            (np.full((2, 4), np.nan), {}, "finite counts"),
            (np.ones((2, 4)), {"level": 1}, "level in"),
            (np.ones((2, 4)), {"resamples": 0}, "at least one resample"),
        ],
    )
    def test_refuses(self, counts: Any, options: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(counts, pooled_iou, **options)

    def test_refuses_statistics_of_other_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"statistic \(1,\) or \(1, M\), got shape \(\)"):
            bootstrap_interval(_counts(0), lambda sums: sums.sum())
