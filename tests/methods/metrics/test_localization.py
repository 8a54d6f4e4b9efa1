from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from methods.metrics.boxes import box_iou
from methods.metrics.localization import LocalizationAccuracy, label_ranks, localization_metrics

Golden = Callable[[str], dict[str, Any]]


def _filled(case: dict[str, Any], order: Any, contours: Any, rows: slice = slice(None)) -> LocalizationAccuracy:
    boxes = np.split(case["gt_boxes_resized"], np.cumsum(case["gt_box_counts"])[:-1])
    accuracy = LocalizationAccuracy(case["_meta"]["iou_thresholds"], contours=contours)
    accuracy.update(case["scoremap_q"][rows] / 1000, boxes[rows], order[rows], case["class_labels"][rows])
    return accuracy


class TestLocalizationAccuracy:
    def test_smoke(self) -> None:
        accuracy = LocalizationAccuracy(step=0.1)
        box = torch.tensor([[0, 0, 7, 7]])
        accuracy.update(torch.ones(1, 8, 8, dtype=torch.float64), [box], torch.tensor([[1, 2]]), torch.tensor([2]))
        found = accuracy.compute()
        assert (found["top1_loc"], found["top5_loc"], found["gt_known_loc"], found["max_box_acc"]) == (0, 1, 1, 1)

    @pytest.mark.parametrize(("contours", "name"), [("largest", "single"), ("all", "multi")])
    def test_golden(self, golden: Golden, contours: Any, name: str) -> None:
        case = golden("loc_errors")
        accuracy = _filled(golden("wsol_box"), case["preds_ordered"], contours)
        found = accuracy.compute()
        for place, rank in enumerate(("top1", "top5")):
            assert np.array_equal(accuracy.correct[place], case[f"num_correct_{rank}_{name}"])
            np.testing.assert_allclose(found[f"{rank}_acc"] * 100, case[f"{rank}_loc_{name}"], atol=1e-9)
            assert found[f"{rank}_loc"] * 100 == pytest.approx(case[f"{rank}_loc_{name}"][1], abs=1e-9)
        np.testing.assert_allclose(found["best_threshold"], case[f"best_tau_{name}"], atol=1e-9)

    def test_merging_is_updating(self, golden: Golden) -> None:
        case, order = golden("wsol_box"), golden("loc_errors")["preds_ordered"]
        whole = _filled(case, order, "largest")
        late, early = (_filled(case, order, "largest", rows) for rows in (slice(5, None), slice(5)))
        late.merge(early)
        assert np.array_equal(late.correct, whole.correct)
        assert late.known.images == whole.known.images

    def test_nothing_counted_is_undefined(self) -> None:
        found = LocalizationAccuracy().compute()
        assert np.isnan([found[name] for name in ("top1_loc", "top5_loc", "gt_known_loc")]).all()

    def test_refused_labels_leave_the_counts_alone(self) -> None:
        accuracy = LocalizationAccuracy()
        with pytest.raises(ValueError, match="labels of 1 images, got 2"):
            accuracy.update(np.ones((1, 4, 4)), [np.array([[0, 0, 3, 3]])], np.ones((2, 5)), np.ones(2))
        assert accuracy.known.images == 0

    def test_refuses_to_merge_other_steps(self) -> None:
        with pytest.raises(ValueError, match="step and contours"):
            LocalizationAccuracy().merge(LocalizationAccuracy(step=0.1))


class TestLocalizationMetrics:
    def test_by_hand(self) -> None:
        order = np.array([[1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 5, 6], [2, 3, 4, 5, 6, 1], [1, 2, 3, 4, 5, 6]])
        found = localization_metrics(np.array([0.9, 0.8, 0.7, 0.5]), order, np.ones(4, int))
        assert found == pytest.approx({"box_iou": 0.725, "gt_known_loc": 0.75, "top1_loc": 0.25, "top5_loc": 0.5})

    def test_without_labels(self) -> None:
        iou = box_iou(np.array([[0, 0, 3, 3]]), np.array([[0, 0, 3, 3]])).max()
        assert localization_metrics(np.array([iou])) == {"box_iou": 1, "gt_known_loc": 1}

    def test_no_image_is_undefined(self) -> None:
        assert np.isnan(localization_metrics(np.zeros(0))["box_iou"])

    @pytest.mark.parametrize("ious", [[np.nan], [1.5], [[0.5]]])
    def test_refuses_ious(self, ious: Any) -> None:
        with pytest.raises(ValueError, match=r"expected IoUs \(N,\) in 0\.\.1"):
            localization_metrics(np.array(ious))

    def test_refuses_predictions_alone(self) -> None:
        with pytest.raises(ValueError, match="or none of them, got one"):
            localization_metrics(np.array([0.5]), np.array([[1]]))

    def test_refuses_labels_of_other_images(self) -> None:
        with pytest.raises(ValueError, match="labels of 1 images, got 2"):
            localization_metrics(np.array([0.5]), np.ones((2, 5)), np.ones(2))


class TestLabelRanks:
    def test_sixth_is_too_late(self) -> None:
        assert label_ranks(np.arange(6)[None], np.array([5])).tolist() == [[False, False]]

    def test_refuses_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"predictions \(B, n\) and labels \(B,\)"):
            label_ranks(np.arange(5), np.array([1]))
