from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.metrics.confusion import ConfusionMatrix
from methods.metrics.threshold_curve import ThresholdCurve, curve_counts

CLASSES = 4


def _image(seed: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    present = rng.permutation(CLASSES)[: seed % 3] + 1
    truth = rng.integers(0, CLASSES + 2, (7, 8)).astype(np.uint8)
    truth[truth > CLASSES] = 255
    return rng.random((len(present), 7, 8), dtype=np.float32), present, truth


class TestCurveCounts:
    def test_smoke(self) -> None:
        maps, truth = torch.rand(2, 5, 6), torch.zeros(5, 6, dtype=torch.uint8)
        counts = curve_counts(maps, torch.tensor([3, 1]), truth, 3)
        assert counts.shape == (4, 4, 256)
        assert counts.dtype == np.int64
        assert counts.sum() == 30
        assert counts[0, [1, 3]].sum() == 30

    def test_ignored_truth_does_not_count(self) -> None:
        counts = curve_counts(np.ones((1, 1, 2)), np.array([1]), np.array([[255, 1]]), 1)
        assert counts.sum() == counts[1, 1, 255] == 1

    def test_equal_scores_take_the_first(self) -> None:
        counts = curve_counts(np.full((2, 1, 1), 0.5), np.array([2, 1]), np.array([[0]]), 2)
        assert counts[0, 2, 127] == 1

    def test_no_class_is_background(self) -> None:
        counts = curve_counts(np.zeros((0, 2, 2)), np.zeros(0, np.int64), np.array([[0, 1], [0, 0]]), 1)
        assert counts[:, 0, 0].tolist() == [3, 1]

    def test_refuses_nan(self) -> None:
        with pytest.raises(ValueError, match=r"finite maps in 0\.\.1, got nan"):
            curve_counts(np.full((1, 1, 1), np.nan), np.array([1]), np.array([[0]]), 1)

    @pytest.mark.parametrize("ids", [[0, 1], [1, 3], [1, 1]])
    def test_refuses_ids(self, ids: list[int]) -> None:
        with pytest.raises(ValueError, match="different class ids 1 to 2"):
            curve_counts(np.zeros((2, 1, 1)), np.array(ids), np.array([[0]]), 2)

    def test_refuses_true_ids_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r"true class ids 0 to 2 or 255, found \[3\]"):
            curve_counts(np.zeros((1, 1, 1)), np.array([1]), np.array([[3]]), 2)

    def test_refuses_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"got shapes \(1, 2, 2\), \(1,\) and \(2, 3\)"):
            curve_counts(np.zeros((1, 2, 2)), np.array([1]), np.zeros((2, 3), np.uint8), 2)

    def test_refuses_too_many_classes(self) -> None:
        with pytest.raises(ValueError, match="1 to 254 classes"):
            curve_counts(np.zeros((1, 1, 1)), np.array([1]), np.array([[0]]), 255)


class TestThresholdCurve:
    @limits(max_examples=10)
    @given(st.integers(0, 2**31))
    def test_each_threshold_is_a_confusion_matrix(self, seed: int) -> None:
        images = [_image(seed + i) for i in range(3)]
        curve = ThresholdCurve(CLASSES)
        for image in images:
            curve.update(*image)
        found = curve.compute()
        for threshold in (0, 1, 100, 200, 254, 255):
            matrix = ConfusionMatrix(CLASSES + 1)
            for maps, present, truth in images:
                labels = np.zeros(truth.shape, np.uint8)
                if len(present):
                    above = np.floor(maps.max(axis=0) * 255) > threshold
                    labels[above] = present[maps.argmax(axis=0)][above]
                matrix.update(labels, truth)
            expected = matrix.compute()
            for name in ("miou", "miou_foreground", "fg_iou_pooled", "fg_f1_pooled"):
                assert found[name][threshold] == pytest.approx(expected[name], nan_ok=True), (name, threshold)

    def test_merging_is_updating(self) -> None:
        together, one, other = (ThresholdCurve(CLASSES) for _ in range(3))
        for i, part in enumerate([one, other, other]):
            part.update(*_image(i))
            together.update(*_image(i))
        one.merge(other)
        assert np.array_equal(one.counts, together.counts)

    def test_nothing_counted_is_undefined(self) -> None:
        found = ThresholdCurve(2).compute()
        assert found["threshold"].tolist() == list(range(256))
        assert np.isnan(found["miou"]).all()
        assert np.isnan(found["fg_iou_pooled"]).all()

    def test_refuses_to_merge_other_classes(self) -> None:
        with pytest.raises(ValueError, match="curve of 2 classes, got 3"):
            ThresholdCurve(2).merge(ThresholdCurve(3))

    @pytest.mark.parametrize("classes", [0, 255])
    def test_refuses_numbers_of_classes(self, classes: int) -> None:
        with pytest.raises(ValueError, match=f"1 to 254 classes without background, got {classes}"):
            ThresholdCurve(classes)
