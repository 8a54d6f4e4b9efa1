from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.metrics.boxes import box_iou, scale_boxes

Golden = Callable[[str], dict[str, Any]]


def _random_boxes(seed: int, count: int) -> Any:
    corners = np.random.default_rng(seed).integers(-3, 12, (count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


class TestScaleBoxes:
    def test_golden(self, golden: Golden) -> None:
        case = golden("wsol_box")
        sizes = np.repeat(case["image_sizes_wh"], case["gt_box_counts"], axis=0)
        for box, (width, height), expected in zip(
            case["gt_boxes_original"], sizes, case["gt_boxes_resized"], strict=True
        ):
            found = scale_boxes(box[None], (height, width), case["scoremap_q"].shape[-1])
            assert found.tolist() == [expected.tolist()]

    def test_truncates_towards_zero(self) -> None:
        assert scale_boxes(np.array([[-1, -3, 5, 7]]), (4, 3), 2).tolist() == [[0, -1, 3, 3]]

    def test_no_box(self) -> None:
        assert scale_boxes(np.zeros((0, 4), int), (4, 3)).shape == (0, 4)

    def test_refuses_fractions(self) -> None:
        with pytest.raises(TypeError, match="expected integer coordinates, got float64"):
            scale_boxes(np.array([[0.5, 0, 1, 1]]), (4, 4))

    def test_refuses_an_empty_image(self) -> None:
        with pytest.raises(ValueError, match="sizes of at least 1"):
            scale_boxes(np.array([[0, 0, 1, 1]]), (0, 4))


class TestBoxIou:
    def test_by_hand(self) -> None:
        found = box_iou(np.array([[0, 0, 1, 1], [2, 2, 2, 2]]), np.array([[1, 1, 2, 2]]))
        np.testing.assert_allclose(found, [[1 / 7], [1 / 4]])

    @limits(max_examples=40)
    @given(st.integers(0, 2**32 - 1))
    def test_is_that_of_painted_pixels(self, seed: int) -> None:
        boxes, others = _random_boxes(seed, 4), _random_boxes(seed + 1, 3)
        painted = [np.zeros((len(group), 20, 20), bool) for group in (boxes, others)]
        for group, canvas in zip((boxes, others), painted, strict=True):
            for mask, (x0, y0, x1, y1) in zip(canvas, group + 4, strict=True):
                mask[y0 : y1 + 1, x0 : x1 + 1] = True
        one, two = painted[0][:, None], painted[1][None]
        np.testing.assert_allclose(box_iou(boxes, others), (one & two).sum((2, 3)) / (one | two).sum((2, 3)))

    @pytest.mark.parametrize(
        ("boxes", "message"),
        [
            ([[2, 0, 1, 1]], "x0 <= x1"),
            ([[0, 0, 1, np.nan]], "x0 <= x1"),
            ([0, 0, 1, 1], r"boxes \(n, 4\), got shape \(4,\)"),
        ],
    )
    def test_refuses(self, boxes: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            box_iou(np.array(boxes), np.array([[0, 0, 1, 1]]))
