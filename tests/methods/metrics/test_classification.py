from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.metrics.classification import average_precision, classification_metrics


class TestAveragePrecision:
    def test_by_hand(self) -> None:
        targets = np.array([True, False, True, False, True])
        expected = (1 / 1 + 2 / 3 + 3 / 5) / 3
        assert average_precision(np.array([9.0, 8, 7, 6, 5]), targets) == pytest.approx(expected)

    def test_equal_scores_are_one_step(self) -> None:
        assert average_precision(np.zeros(4), np.array([True, False, False, True])) == pytest.approx(0.5)

    def test_no_positive_is_undefined(self) -> None:
        assert np.isnan(average_precision(np.arange(3.0), np.zeros(3, bool)))

    @limits(max_examples=30)
    @given(st.integers(0, 2**31))
    def test_matches_the_definition(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scores, targets = rng.integers(0, 6, 12).astype(float), rng.random(12) < 0.4
        targets[0] = True
        area, before = 0.0, 0.0
        for level in sorted(set(scores.tolist()), reverse=True):
            above = scores >= level
            recall = (targets & above).sum() / targets.sum()
            area += (recall - before) * (targets & above).sum() / above.sum()
            before = recall
        assert average_precision(scores, targets) == pytest.approx(area)


class TestClassificationMetrics:
    def test_smoke(self) -> None:
        found = classification_metrics(torch.randn(20, 3), torch.rand(20, 3) < 0.5, multi_label=True)
        assert found["f1"].shape == found["average_precision"].shape == (3,)
        assert 0 <= found["mean_average_precision"] <= 1

    def test_single_label_by_hand(self) -> None:
        scores = np.array([[3.0, 1, 0], [2, 0, 1], [0, 2, 1], [0, 2, 1]])
        targets = np.eye(3)[[0, 0, 1, 2]]
        found = classification_metrics(scores, targets, multi_label=False)
        assert found["accuracy"] == found["f1_micro"] == 0.75
        np.testing.assert_allclose(found["f1"], [1, 2 / 3, 0])
        np.testing.assert_allclose(found["precision"], [1, 1 / 2, 0])
        assert found["f1_macro"] == pytest.approx(5 / 9)
        assert found["positives"].tolist() == [2, 1, 1]

    def test_multi_label_by_hand(self) -> None:
        scores = np.array([[1.0, -1, -1], [1, 1, -1], [-1, 1, -1]])
        targets = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]])
        found = classification_metrics(scores, targets, multi_label=True)
        assert found["accuracy"] == pytest.approx(1 / 3)
        np.testing.assert_allclose(found["f1"], [4 / 5, 2 / 3, np.nan])
        assert found["f1_macro"] == pytest.approx(11 / 15)
        assert found["f1_micro"] == pytest.approx(6 / 8)
        assert np.isnan(found["average_precision"][2])

    def test_a_logit_of_zero_says_no(self) -> None:
        found = classification_metrics(np.zeros((2, 1)), np.zeros((2, 1)), multi_label=True)
        assert found["accuracy"] == 1
        assert np.isnan(found["f1_macro"])
        assert np.isnan(found["mean_average_precision"])

    def test_perfect(self) -> None:
        targets = np.eye(4, dtype=bool)[[0, 1, 2, 3, 3]]
        found = classification_metrics(targets * 2.0 - 1, targets, multi_label=False)
        names = ["accuracy", "mean_average_precision", "f1_macro", "f1_micro", "precision_macro", "recall_macro"]
        assert [found[name] for name in names] == [1.0] * 6

    @pytest.mark.parametrize("targets", [np.array([[1, 1]]), np.array([[0, 0]])])
    def test_refuses_other_than_one_class(self, targets: Any) -> None:
        with pytest.raises(ValueError, match=r"exactly one class per image .* first \[0\]"):
            classification_metrics(np.zeros((1, 2)), targets, multi_label=False)

    def test_refuses_nan(self) -> None:
        with pytest.raises(ValueError, match=r"finite scores.* first \[1\]"):
            classification_metrics(np.array([[0.0], [np.nan]]), np.ones((2, 1)), multi_label=True)

    def test_refuses_soft_targets(self) -> None:
        with pytest.raises(ValueError, match="targets 0 or 1"):
            classification_metrics(np.zeros((1, 1)), np.full((1, 1), 0.5), multi_label=True)

    @pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((0, 3), (0, 3)), ((2,), (2,))])
    def test_refuses_shapes(self, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        with pytest.raises(ValueError, match=r"scores and targets \(N, K\)"):
            classification_metrics(np.zeros(shapes[0]), np.zeros(shapes[1]), multi_label=True)
