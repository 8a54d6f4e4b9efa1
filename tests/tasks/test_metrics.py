import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.metrics import ConfusionMatrix, ThresholdCurve
from storage.index import ImageIndex
from storage.metrics import MetricRow
from tasks.metrics import classifier_rows, count_rows, curve_rows, image_scores, mask_rows, pooled, threshold_scores

NAMES = ["background", "cat", "dog"]
WHERE = {"stage": "mask", "method": "m", "split": "val", "images": 1}
IGNORE = 255
# Image 0 (train): background 4 right and 1 called cat, cat 2 right and 1 left unlabelled. Image 1 (train): empty and
# found empty. Image 2 (val): dog called cat.
CELLS = [
    (0, "train", 0, 0, 4),
    (0, "train", 0, 1, 1),
    (0, "train", 1, 1, 2),
    (0, "train", 1, IGNORE, 1),
    (1, "train", 0, 0, 6),
    (2, "val", 2, 1, 3),
    (2, "val", 0, 0, 5),
]


def table(cells: Sequence[tuple[int, str, int, int, int]]) -> pa.Table:
    columns = ["row", "split", "truth", "predicted", "count"]
    return pa.table({name: list(values) for name, values in zip(columns, zip(*cells))})


def look(rows: list[MetricRow], metric: str, name: str = "", split: str = "train") -> MetricRow:
    (found,) = [row for row in rows if (row.metric, row.name, row.split) == (metric, name, split)]
    return found


def sparse(predicted: np.ndarray, truth: np.ndarray, row: int = 0) -> list[tuple[int, str, int, int, int]]:
    """What the evaluation stores of an image, counted pixel by pixel."""
    seen: dict[tuple[int, int], int] = {}
    for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist()):
        if t != IGNORE:
            seen[t, p] = seen.get((t, p), 0) + 1
    return [(row, "val", t, p, count) for (t, p), count in seen.items()]


class TestMaskRows:
    @pytest.fixture
    def rows(self) -> list[MetricRow]:
        return mask_rows(table(CELLS), NAMES, stage="mask", method="m", source="otsu")

    @pytest.mark.parametrize(
        ("metric", "name", "over", "under"),
        [
            ("iou", "background", 10, 11),
            ("iou", "cat", 2, 4),
            ("precision", "cat", 2, 3),
            ("recall", "cat", 2, 3),
            ("f1", "cat", 4, 6),
            ("fg_iou_pooled", "", 2, 4),
            ("fg_precision_pooled", "", 2, 3),
            ("fg_recall_pooled", "", 2, 3),
            ("fg_f1_pooled", "", 4, 6),
            ("accuracy", "", 12, 14),
        ],
    )
    def test_golden_ratios(self, rows: list[MetricRow], metric: str, name: str, over: int, under: int) -> None:
        found = look(rows, metric, name)
        assert (found.numerator, found.denominator) == (over, under)
        assert found.value == pytest.approx(over / under)

    def test_golden_means(self, rows: list[MetricRow]) -> None:
        assert look(rows, "miou").value == pytest.approx((10 / 11 + 1 / 2) / 2)
        assert look(rows, "miou_foreground").value == pytest.approx(1 / 2)
        # Image 0: 2 of 4; image 1: nothing to find and nothing found.
        assert look(rows, "fg_iou_per_image").value == pytest.approx((0.5 + 1) / 2)
        assert look(rows, "precision").value == pytest.approx((10 / 10 + 2 / 3) / 2)

    def test_a_class_that_does_not_occur_is_undefined(self, rows: list[MetricRow]) -> None:
        assert math.isnan(look(rows, "iou", "dog").value)
        assert look(rows, "iou", "dog").denominator == 0
        assert look(rows, "iou", "dog", "val").value == 0

    def test_a_wrong_class_is_foreground(self, rows: list[MetricRow]) -> None:
        assert look(rows, "fg_iou_pooled", split="val").value == 1
        assert look(rows, "fg_iou_per_image", split="val").value == 1

    def test_splits_and_images(self, rows: list[MetricRow]) -> None:
        assert {(row.split, row.images, row.threshold_source) for row in rows} == {
            ("train", 2, "otsu"),
            ("val", 1, "otsu"),
        }
        intervals = sum(row.metric.endswith(("_low", "_high")) for row in rows)
        assert intervals == 4  # of the split with more than one image
        keys = [(row.split, row.metric, row.name) for row in rows]
        assert len(keys) == len(set(keys)) == 2 * (6 + 4 + 4 * 3 + 1) + intervals

    @given(st.integers(0, 2**31), st.integers(1, 4))
    @settings(max_examples=20, deadline=None)
    def test_same_as_the_confusion_matrix(self, seed: int, images: int) -> None:
        random, matrix, cells = np.random.default_rng(seed), ConfusionMatrix(3), []
        for row in range(images):
            predicted, truth = random.choice(np.array([0, 1, 2, IGNORE], np.uint8), (2, 5, 6))
            truth[0, 0] = 0
            matrix.update(predicted, truth)
            cells += sparse(predicted, truth, row)
        rows = mask_rows(table(cells), NAMES, stage="mask", method="m", source="fixed")
        assert np.array_equal(pooled(table(cells).to_pandas(), 3), matrix.counts)
        expected = matrix.compute()
        for metric in ("miou", "miou_foreground", "f1_macro", "accuracy", "fg_iou_pooled", "fg_f1_pooled"):
            assert look(rows, metric, split="val").value == pytest.approx(expected[metric], nan_ok=True)
        for metric, whole in (("precision", "precision_macro"), ("recall", "recall_macro")):
            assert look(rows, metric, split="val").value == pytest.approx(expected[whole], nan_ok=True)
        for metric in ("iou", "precision", "recall", "f1"):
            found = [look(rows, metric, name, "val").value for name in NAMES]
            np.testing.assert_allclose(found, expected[metric])


class TestCountRows:
    def test_every_ratio_is_its_counts(self) -> None:
        counts = np.array([[6, 1, 0, 0], [2, 3, 0, 1], [0, 0, 0, 0]])
        for row in count_rows(counts, NAMES, WHERE):
            if row.denominator:
                assert row.value == pytest.approx(row.numerator / row.denominator), row
            elif row.denominator == 0:
                assert math.isnan(row.value)

    def test_nothing_counted(self) -> None:
        assert all(math.isnan(row.value) for row in count_rows(np.zeros((3, 4), np.int64), NAMES, WHERE))


class TestImageScores:
    def test_golden(self) -> None:
        scores = image_scores(table(CELLS).to_pandas(), 3)
        assert scores["row"].tolist() == [0, 1, 2]
        assert scores["fg_iou"].tolist() == [0.5, 1.0, 1.0]
        assert scores["miou"].tolist() == pytest.approx([(4 / 5 + 2 / 4) / 2, 1.0, (1 + 0 + 0) / 3])

    def test_no_image(self) -> None:
        nothing = pd.DataFrame({name: [] for name in ("row", "truth", "predicted", "count")})
        assert list(image_scores(nothing, 3).columns) == ["row", "miou", "fg_iou"]


class TestCurveRows:
    def curve(self, seed: int) -> tuple[ThresholdCurve, pa.Table]:
        random, curve = np.random.default_rng(seed), ThresholdCurve(2)
        for _ in range(3):
            truth = random.choice(np.array([0, 1, 2, IGNORE], np.uint8), (6, 7))
            curve.update(random.random((2, 6, 7)), np.array([1, 2]), truth)
        cells = [("val", *cell, int(curve.counts[tuple(cell)])) for cell in np.argwhere(curve.counts).tolist()]
        columns = ["split", "truth", "best", "level", "count"]
        return curve, pa.table({name: list(values) for name, values in zip(columns, zip(*cells))})

    def test_golden(self) -> None:
        # Background at level 10, cat at level 20: any threshold from 10 to 19 is perfect.
        cells = pa.table({"split": ["val"] * 2, "truth": [0, 1], "best": [1, 1], "level": [10, 20], "count": [3, 2]})
        rows = curve_rows(cells, NAMES[:2], method="m", images={"val": 4})
        best = look(rows, "miou_best", split="val")
        assert (best.value, best.threshold, best.threshold_source, best.images) == (1.0, 10 / 255, "oracle", 4)
        found = {row.threshold: row.value for row in rows if row.metric == "fg_iou_pooled"}
        assert len(found) == 51
        assert [found[level / 255] for level in (0, 5, 10, 15, 20, 250)] == [0.4, 0.4, 1.0, 1.0, 0.0, 0.0]

    @given(st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_same_as_the_threshold_curve(self, seed: int) -> None:
        curve, cells = self.curve(seed)
        expected, rows = curve.compute(), curve_rows(cells, NAMES, method="m", images={"val": 3})
        for level in (0, 37, 128, 254):
            found = threshold_scores(curve.counts, level)
            assert found["miou"] == pytest.approx(expected["miou"][level])
            assert found["fg_iou_pooled"] == pytest.approx(expected["fg_iou_pooled"][level])
        best = look(rows, "miou_best", split="val")
        assert best.value == pytest.approx(np.nanmax(expected["miou"][:255]))
        assert best.threshold == np.nanargmax(expected["miou"][:255]) / 255
        assert {row.threshold_source for row in rows} == {"oracle"}


class TestClassifierRows:
    def test_golden(self, index_of_labels: Callable[..., ImageIndex]) -> None:
        index = index_of_labels(
            [["cat"], ["dog"], ["cat"], ["cat"]], ("cat", "dog"), splits=["train"] * 2 + ["val"] * 2
        )
        logits = pa.table({"row": [3, 0, 1, 2], "logits": [[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [1.0, 0.0]]})
        rows = classifier_rows(logits, index, multi_label=False, method="classifier")
        assert look(rows, "accuracy").value == 1
        assert look(rows, "accuracy", split="val").value == 0.5
        assert look(rows, "recall", "cat", "val").value == 0.5
        assert {(row.stage, row.split, row.images) for row in rows} == {
            ("classifier", "train", 2),
            ("classifier", "val", 2),
        }

    def test_scores_that_are_not_finite_are_left_out(self, index_of_labels: Callable[..., ImageIndex]) -> None:
        index = index_of_labels([["cat"], ["dog"], ["cat"]], ("cat", "dog"))
        nan = float("nan")
        logits = pa.table({"row": [0, 1, 2], "logits": [[2.0, 0.0], [nan, 1.0], [0.0, 1.0]]})
        found = look(classifier_rows(logits, index, multi_label=False, method="m"), "accuracy", split=index.splits[0])
        assert (found.value, found.images) == (0.5, 2)
        logits = pa.table({"row": [0], "logits": [[nan, nan]]})
        assert classifier_rows(logits, index, multi_label=False, method="m") == []

    def test_order_of_rows_does_not_matter(self, index_of_labels: Callable[..., ImageIndex]) -> None:
        index = index_of_labels([["cat"], ["dog"], ["cat", "dog"], []], ("cat", "dog"))
        logits = [[1.0, -1.0], [0.5, 0.2], [2.0, 0.1], [-1.0, -0.5]]

        def rows(order: list[int]) -> list[Any]:
            made = pa.table({"row": order, "logits": [logits[row] for row in order]})
            found = classifier_rows(made, index, multi_label=True, method="m")
            return [(row.metric, row.name, pytest.approx(row.value, nan_ok=True)) for row in found]

        assert rows([2, 0, 3, 1]) == rows([0, 1, 2, 3])
