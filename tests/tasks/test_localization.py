from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from methods.metrics import BoxAccuracy, LocalizationAccuracy, PixelAveragePrecision
from tasks.localization import localization_rows, ranked
from tasks.localize import COUNTS, truth_boxes

SIDE, IMAGES, CLASSES = 224, 5, 7


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """Maps with a bright spot, boxes somewhere near, logits, masks."""
    random = np.random.default_rng(3)
    scores = random.random((IMAGES, SIDE // 8, SIDE // 8)).repeat(8, 1).repeat(8, 2)
    scores[:, 40:120, 60:150] += 1
    scores /= scores.max(axis=(1, 2), keepdims=True)
    corners = random.integers(20, 90, (IMAGES, 2))
    boxes = [np.array([[x, y, x + 80, y + 70]]) for x, y in corners]
    truth = np.zeros((IMAGES, SIDE, SIDE), np.uint8)
    truth[:, 50:100, 70:170], truth[:, :4] = 1, 255
    logits, labels = random.normal(size=(IMAGES, CLASSES)), random.integers(CLASSES, size=IMAGES)
    return {"scores": scores, "boxes": boxes, "truth": truth, "logits": logits, "labels": labels}


def table(case: dict[str, Any], **columns: Any) -> pa.Table:
    rows = []
    for row in range(IMAGES):
        facts = {"row": row, "class_id": int(case["labels"][row]) + 1, "split": "val", "method": ""}
        for contours in ("largest", "all"):
            state = BoxAccuracy(contours=contours)
            hits = state.update(case["scores"][row : row + 1], case["boxes"][row : row + 1])
            facts[f"hits_{contours}"] = np.packbits(hits[0]).tobytes()
        pixels = PixelAveragePrecision()
        pixels.update(case["scores"][row : row + 1], case["truth"][row : row + 1])
        facts |= {name: getattr(pixels, name).astype("<u2").tobytes() for name in ("foreground", "background")}
        rows.append({**facts, "box_iou": 0.3 * row, "error": ("lpe", "lme", "right", "right", "right")[row], **columns})
    return pa.Table.from_pylist(rows, COUNTS)


class TestLocalizationRows:
    def test_one_pass_gives_the_same(self, case: dict[str, Any]) -> None:
        order = np.argsort(-case["logits"], axis=1)
        whole = LocalizationAccuracy()
        whole.update(case["scores"], case["boxes"], order, case["labels"])
        all_boxes, pixels = BoxAccuracy(contours="all"), PixelAveragePrecision()
        all_boxes.update(case["scores"], case["boxes"])
        pixels.update(case["scores"], case["truth"])

        logits = pa.table({"row": range(IMAGES), "logits": case["logits"].tolist()})
        ranks = ranked(logits, [[int(label) + 1] for label in case["labels"]])
        rows = localization_rows(table(case), ranks, method="m", source="otsu")
        found = {(row.stage, row.metric): row for row in rows}
        expected = whole.compute()
        for name in ("max_box_acc", "top1_loc", "top5_loc", "gt_known_loc"):
            assert found["cam", name].value == expected[name]
            assert found["cam", name].threshold_source == "oracle"
        assert found["cam", "max_box_acc_v2"].value == all_boxes.compute()["max_box_acc_v2"]
        assert found["cam", "px_ap"].value == pixels.compute()["px_ap"]
        for name in ("max_box_acc", "px_ap"):
            low, value, high = (found["cam", name + end].value for end in ("_low", "", "_high"))
            assert low <= value <= high

    def test_boxes_of_masks(self, case: dict[str, Any]) -> None:
        ranks = {(row, int(case["labels"][row]) + 1): (row != 4, True) for row in range(IMAGES)}
        rows = localization_rows(table(case), ranks, method="m", source="otsu")
        found = {row.metric: row for row in rows if row.stage == "mask"}
        assert found["box_iou"].value == pytest.approx(0.6)
        known = {"gt_known_loc": 3, "top1_loc": 2, "top5_loc": 3}
        errors = {"lpe": 1, "lme": 1, "wrong_class": 1, "multi_instance": 0, "wrong_region": 0}
        assert {name: found[name].numerator for name in known | errors} == known | errors
        assert {row.threshold_source for row in found.values()} == {"otsu"}

    def test_what_is_not_known_is_not_told(self, case: dict[str, Any]) -> None:
        nothing = table(case, hits_largest=None, hits_all=None, foreground=None, background=None, box_iou=None)
        assert localization_rows(nothing, None, method="m", source="fixed") == []
        floors = localization_rows(table(case), None, method="centred_gaussian", source="fixed")
        assert not {row.metric for row in floors} & {"top1_loc", "top5_loc"}


class TestRanked:
    def test_labels_of_an_image_and_bad_logits(self) -> None:
        values = [[0.0, 3.0, 1.0, 2.0, -1.0, 0.5, 0.6], [float("nan")] * CLASSES]
        found = ranked(pa.table({"row": [0, 1], "logits": values}), [[2, 5], [1]])
        assert found == {(0, 2): (True, True), (0, 5): (False, False), (1, 1): (False, False)}


class TestTruthBoxes:
    def test_parts_that_touch_at_a_corner_are_one(self) -> None:
        mask = np.zeros((6, 8), np.uint8)
        mask[0, 0] = mask[1, 1] = mask[4:, 5:] = 2
        mask[3, 3] = 1
        assert truth_boxes(mask, 2).tolist() == [[0, 0, 2, 2], [5, 4, 8, 6]]
        assert truth_boxes(mask, 3).shape == (0, 4)
