from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from methods.metrics.boxes import box_iou, overlaps
from methods.metrics.localization_errors import CLASSES, LocalizationErrors, localization_error

Golden = Callable[[str], dict[str, Any]]
READ = {
    "preds_ordered",
    *(f"{kind}_{name}" for kind in ("top1_loc", "top5_loc", "best_tau") for name in ("single", "multi")),
    *(f"num_correct_{rank}_{name}" for rank in ("top1", "top5") for name in ("single", "multi")),
    *(f"tscam_box_thr{percent}" for percent in (10, 20, 35)),
}
HERE = {"err_pred_boxes", "err_gt_boxes", "err_gt_counts", "err_pred_class", "err_gt_class", "err_best_iou"} | {
    "err_best_gt",
    "err_flags_cls_multi_part_more_wrong",
    "iou_matrix",
    "iog_matrix",
    "iob_matrix",
    "err_rates_right_cls_multi_part_more_wrong",
}
TRUE = np.array([[0, 0, 9, 9]])


def _cases(case: dict[str, Any]) -> list[tuple[Any, Any, bool]]:
    truths = np.split(case["err_gt_boxes"], np.cumsum(case["err_gt_counts"])[:-1])
    right = (case["err_pred_class"] == case["err_gt_class"]).tolist()
    return list(zip(case["err_pred_boxes"], truths, right, strict=True))


class TestLocalizationErrors:
    def test_smoke(self) -> None:
        errors = LocalizationErrors()
        assert errors.update(torch.tensor([0, 0, 9, 9]), torch.tensor(TRUE), True) == "right"
        assert errors.counts.tolist() == [1, 0, 0, 0, 0, 0]
        assert errors.counts.dtype == np.int64

    def test_golden_classes(self, golden: Golden) -> None:
        case = golden("loc_errors")
        errors = LocalizationErrors()
        found = [CLASSES.index(errors.update(*one)) for one in _cases(case)]
        flags = case["err_flags_cls_multi_part_more_wrong"]
        assert found == np.where(flags.any(axis=1), flags.argmax(axis=1) + 1, 0).tolist()
        rates = list(errors.compute().values())
        np.testing.assert_allclose(rates, case["err_rates_right_cls_multi_part_more_wrong"], atol=1e-12)

    def test_golden_overlaps(self, golden: Golden) -> None:
        case = golden("loc_errors")
        parts, bests, places = [], [], []
        for predicted, truth, _ in _cases(case):
            inside, area, others = overlaps(predicted[None], truth)
            iou = box_iou(predicted[None], truth)[0]
            parts.append([iou, (inside / others)[0], (inside / area)[0]])
            bests.append(iou.max())
            places.append(iou.argmax())
        for found, name in zip(np.concatenate(parts, axis=1), ("iou", "iog", "iob"), strict=True):
            np.testing.assert_allclose(found, case[f"{name}_matrix"], atol=1e-12)
        np.testing.assert_allclose(bests, case["err_best_iou"], atol=1e-12)
        assert np.array_equal(places, case["err_best_gt"])

    def test_golden_is_read_completely(self, golden: Golden) -> None:
        # READ: by test_localization and tests/methods/refinement/test_component_boxes.
        assert set(golden("loc_errors")) == READ | HERE | {"_meta"}

    @pytest.mark.parametrize(
        ("predicted", "truth", "right", "expected"),
        [
            ([0, 0, 9, 9], TRUE, False, "wrong_class"),
            ([0, 0, 9, 4], TRUE, True, "lpe"),
            ([0, 0, 9, 5], TRUE, True, "right"),
            ([0, 0, 19, 19], TRUE, True, "lme"),
            ([3, 0, 30, 9], TRUE, True, "lme"),
            ([4, 0, 30, 9], TRUE, True, "wrong_region"),
            ([20, 20, 29, 29], TRUE, True, "wrong_region"),
            ([0, 0, 29, 9], np.array([[0, 0, 9, 9], [20, 0, 29, 9]]), True, "multi_instance"),
        ],
    )
    def test_by_hand(self, predicted: Any, truth: Any, right: bool, expected: str) -> None:
        assert localization_error(np.array(predicted), truth, right) == expected

    def test_merging_is_updating(self, golden: Golden) -> None:
        cases = _cases(golden("loc_errors"))
        whole, late, early = LocalizationErrors(), LocalizationErrors(), LocalizationErrors()
        for place, one in enumerate(cases):
            whole.update(*one)
            (early if place < 20 else late).update(*one)
        late.merge(early)
        assert np.array_equal(late.counts, whole.counts)
        assert late.images == len(cases)

    def test_nothing_counted_is_undefined(self) -> None:
        assert np.isnan(list(LocalizationErrors().compute().values())).all()

    @pytest.mark.parametrize(
        ("predicted", "truth", "message"),
        [
            ([0, 0, 9, 9], np.zeros((0, 4)), "at least one true box"),
            ([0, 0, np.nan, 9], TRUE, "predicted boxes"),
            ([0, 0, 9], TRUE, r"predicted boxes \(n, 4\)"),
            ([5, 0, 4, 9], TRUE, "x0 <= x1"),
        ],
    )
    def test_refusals_leave_the_counts_alone(self, predicted: Any, truth: Any, message: str) -> None:
        errors = LocalizationErrors()
        with pytest.raises(ValueError, match=message):
            errors.update(np.array(predicted), truth, True)
        assert errors.images == 0
