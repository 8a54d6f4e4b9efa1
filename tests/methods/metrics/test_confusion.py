from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.metrics.confusion import ConfusionMatrix

Golden = Callable[[str], dict[str, Any]]


def _labels(seed: int, classes: int = 4) -> Any:
    values = np.random.default_rng(seed).integers(0, classes + 1, (2, 3, 8, 9)).astype(np.uint8)
    values[values == classes] = 255
    return values


def _filled(predicted: Any, truth: Any, classes: int = 4) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    matrix.update(predicted, truth)
    return matrix


class TestConfusionMatrix:
    def test_smoke(self) -> None:
        matrix = _filled(torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8))
        assert matrix.counts.dtype == np.int64
        assert matrix.counts.sum() == 32
        assert matrix.compute()["iou"].shape == (4,)

    def test_golden(self, golden: Golden) -> None:
        case = golden("segmetrics")
        found = _filled(case["pred"], case["gt"], 6).compute()
        expected = {
            "iou": case["puzzle_iou_percent"] / 100,
            "miou": case["puzzle_miou_percent"] / 100,
            "miou_foreground": case["puzzle_miou_fg_percent"] / 100,
            "precision": case["precision"],
            "recall": case["recall"],
            "f1": case["f1"],
            "f1_macro": case["macro_f1"],
            "f1_macro_foreground": case["macro_f1_fg"],
            "fg_counts": case["binary_tp_fp_fn_tn"],
            "fg_precision_pooled": case["binary_precision"],
            "fg_recall_pooled": case["binary_recall"],
            "fg_f1_pooled": case["binary_f1"],
            "fg_iou_pooled": case["binary_iou"],
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(found["iou"], case["jaccard"], atol=1e-6)

    def test_golden_error_ratios(self, golden: Golden) -> None:
        case = golden("segmetrics")
        counts = _filled(case["pred"], case["gt"], 6).counts
        hits, true, predicted = np.diagonal(counts), counts.sum(axis=1), counts[:, :-1].sum(axis=0)
        union = predicted + true - hits
        np.testing.assert_allclose(((predicted - hits) / union).mean(), case["puzzle_FP"], atol=1e-6)
        np.testing.assert_allclose(((true - hits) / union).mean(), case["puzzle_FN"], atol=1e-6)

    def test_by_hand(self) -> None:
        found = _filled(np.array([0, 0, 1, 1, 255]), np.array([0, 1, 1, 0, 1]), 3).compute()
        np.testing.assert_allclose(found["iou"], [1 / 3, 1 / 4, np.nan])
        np.testing.assert_allclose(found["recall"], [1 / 2, 1 / 3, np.nan])
        assert found["miou"] == pytest.approx(7 / 24)
        assert found["miou_foreground"] == pytest.approx(1 / 4)
        assert found["accuracy"] == pytest.approx(2 / 5)

    def test_a_true_class_never_predicted_counts_as_zero(self) -> None:
        found = _filled(np.array([0, 0]), np.array([0, 1]), 3).compute()
        np.testing.assert_array_equal(found["f1"], [2 / 3, 0, np.nan])
        np.testing.assert_array_equal(found["precision"], [1 / 2, 0, np.nan])
        assert found["f1_macro"] == pytest.approx(1 / 3)
        assert found["fg_iou_pooled"] == found["fg_precision_pooled"] == 0

    def test_nothing_counted_is_undefined(self) -> None:
        found = ConfusionMatrix(3).compute()
        assert np.isnan(found["iou"]).all()
        assert all(np.isnan(value) for value in found.values() if isinstance(value, float))

    def test_seed_000_identity(self) -> None:
        found = _filled(_labels(1), _labels(2)).compute()
        f1 = found["fg_f1_pooled"]
        assert found["fg_iou_pooled"] == pytest.approx(f1 / (2 - f1))
        assert found["accuracy"] == pytest.approx(found["recall"] @ np.bincount(_truth(), minlength=4) / len(_truth()))

    @limits(max_examples=20)
    @given(st.integers(0, 2**31))
    def test_merging_is_updating(self, seed: int) -> None:
        predicted, truth = _labels(seed), _labels(seed + 1)
        together, one, other = (
            _filled(predicted, truth),
            _filled(predicted[0], truth[0]),
            _filled(predicted[1], truth[1]),
        )
        one.merge(other)
        assert np.array_equal(one.counts, together.counts)

    @limits(max_examples=20)
    @given(st.integers(0, 2**31))
    def test_swapping_swaps_precision_and_recall(self, seed: int) -> None:
        predicted, truth = np.minimum(_labels(seed), 3), np.minimum(_labels(seed + 1), 3)
        one, other = _filled(predicted, truth).compute(), _filled(truth, predicted).compute()
        np.testing.assert_allclose(one["precision"], other["recall"])
        np.testing.assert_allclose(one["iou"], other["iou"])

    def test_refuses_to_merge_other_classes(self) -> None:
        with pytest.raises(ValueError, match="matrix of 3 classes that ignores 255, got 4 classes"):
            ConfusionMatrix(3).merge(ConfusionMatrix(4))

    @pytest.mark.parametrize(("classes", "ignore"), [(0, 255), (256, 255), (4, 3), (4, 256)])
    def test_refuses_sizes(self, classes: int, ignore: int) -> None:
        with pytest.raises(ValueError, match="expected"):
            ConfusionMatrix(classes, ignore)

    def test_refused_labels_leave_the_counts_alone(self) -> None:
        matrix = ConfusionMatrix(2)
        with pytest.raises(ValueError, match="predicted class ids"):
            matrix.update(np.array([0, 2]), np.array([0, 0]))
        assert not matrix.counts.any()


def _truth() -> Any:
    truth = _labels(2).ravel()
    return truth[truth != 255]
