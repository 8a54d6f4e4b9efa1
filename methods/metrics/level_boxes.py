"""Boxes of one map at all of its levels: which of them meet the true boxes.

Components only shrink as the threshold rises, and so do their boxes. Hence no level has to be looked at where even the
whole of what lies above it could no longer meet the object; and none between two levels, if the largest component stays
the largest between them and its box, that lies between theirs, can only be judged as theirs.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Floats
from methods.metrics.boxes import Boxes
from methods.refinement.component_boxes import (
    Contours,
    Largest,
    Rectangle,
    has_opencv,
    opencv_largest,
    opencv_rectangles,
    scipy_largest,
    scipy_rectangles,
)

Levels = NDArray[np.uint8]
Hits = NDArray[np.bool_]
Corners = tuple[int, int, int, int]
Measure = Callable[[Hits, tuple[int, int]], Largest]


def level_hits(levels: Levels, truth: Boxes, thresholds: NDArray[np.int64], contours: Contours, deltas: Floats) -> Hits:
    """Where a box of a map has a given IoU with a true one.

    Parameters
    ----------
    levels
        ``(H, W)``.
    truth
        True boxes ``(n, 4)``, n at least 1.
    thresholds
        ``(T,)`` ascending and different; foreground is above.
    contours
        As :func:`methods.refinement.component_boxes`.
    deltas
        IoUs ``(I,)``, fractions above 0.

    Returns
    -------
    ndarray
        ``(I, T)`` bool. Without any pixel above the threshold the box is that of pixel (0, 0).

    Examples
    --------
    >>> levels, truth = np.array([[9, 5, 5]], np.uint8), np.array([[0, 0, 1, 0]])
    >>> level_hits(levels, truth, np.array([0, 5]), "largest", np.array([0.6, 1.0])).tolist()
    [[True, True], [False, True]]
    """
    image = MapBoxes(levels, truth, thresholds, contours)
    areas = (truth[:, 2:] - truth[:, :2] + 1).prod(axis=1)
    shared = np.minimum(image.support[:, None, 2:], truth[:, 2:]) - np.maximum(image.support[:, None, :2], truth[:, :2])
    reachable = (np.maximum(shared + 1, 0).prod(axis=2) / areas).max(axis=1) >= deltas.min()
    best = np.zeros(len(thresholds))
    # The support shrinks, so that reachable levels are the first ones.
    count = int(reachable.sum())
    if count:
        best[:count] = image.all_ious(count) if contours == "all" else image.largest_ious(count, deltas.tolist())
    return best >= deltas[:, None]


class MapBoxes:
    """One map with its true boxes and thresholds, as :func:`level_hits` takes them.

    Attributes
    ----------
    support
        Bounds ``(T, 4)`` of what lies above each threshold, corners included; pixel (0, 0) if nothing does.
    """

    def __init__(self, levels: Levels, truth: Boxes, thresholds: NDArray[np.int64], contours: Contours) -> None:
        self.levels, self.truths, self.thresholds = levels, [tuple(one) for one in truth.tolist()], thresholds.tolist()
        self.contours = contours
        self.right, self.bottom = levels.shape[1] - 1, levels.shape[0] - 1
        bounds = []
        for axis in (0, 1):
            above = levels.max(axis=axis)[None] > thresholds[:, None]
            last = np.where(above.any(axis=1), above.shape[1] - above[:, ::-1].argmax(axis=1), 0)
            bounds.append((above.argmax(axis=1), last))
        (x0, x1), (y0, y1) = bounds
        self.crops = np.stack([x0, y0, x1, y1], axis=1)
        self.support = np.minimum(self.crops, [self.right, self.bottom, self.right, self.bottom])

    def all_ious(self, count: int) -> Floats:
        """Best IoU of any box at each of the first thresholds."""
        draw = opencv_rectangles if has_opencv() else scipy_rectangles
        drawn: list[Rectangle] = []
        starts = []
        for place in range(count):
            mask, origin = self._mask(place)
            starts.append(len(drawn))
            drawn += draw(mask, "all", origin) if mask.size else [(0, 0, 0, 0)]
        boxes = np.array(drawn, dtype=np.int64)
        boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], [self.right, self.bottom])
        areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
        best = np.zeros(len(boxes))
        for true in np.array(self.truths):
            sides = np.minimum(boxes[:, 2:], true[2:]) - np.maximum(boxes[:, :2], true[:2]) + 1
            shared = np.maximum(sides, 0).prod(axis=1)
            best = np.maximum(best, shared / (areas + (true[2:] - true[:2] + 1).prod() - shared))
        found: Floats = np.maximum.reduceat(best, starts)
        return found

    def largest_ious(self, count: int, deltas: list[float]) -> list[float]:
        """An IoU that is on the same side of every delta as that of the largest component, threshold by threshold."""
        measure = opencv_largest if has_opencv() else scipy_largest
        boxes: dict[int, tuple[Corners, float, float]] = {}
        best = [0.0] * count
        for place in (0, count - 1):
            boxes[place] = self._largest(place, measure)
            best[place] = self._bounded(boxes[place][0], boxes[place][0])
        spans = [(0, count - 1)]
        while spans:
            low, high = spans.pop()
            if high - low < 2:
                continue
            (outer, area, second), (inner, least, _) = boxes[low], boxes[high]
            # A component of that area lies in the largest one below, and whatever else does is smaller.
            if least > max(area - least, second):
                floor, ceiling = self._bounded(inner, outer), self._bounded(outer, inner)
                if all((floor >= one) == (ceiling >= one) for one in deltas):
                    best[low + 1 : high] = [floor] * (high - low - 1)
                    continue
            middle = (low + high) // 2
            boxes[middle] = self._largest(middle, measure)
            best[middle] = self._bounded(boxes[middle][0], boxes[middle][0])
            spans += [(low, middle), (middle, high)]
        return best

    def _mask(self, place: int) -> tuple[Hits, tuple[int, int]]:
        x0, y0, x1, y1 = self.crops[place].tolist()
        return self.levels[y0:y1, x0:x1] > self.thresholds[place], (x0, y0)

    def _largest(self, place: int, measure: Measure) -> tuple[Corners, float, float]:
        mask, origin = self._mask(place)
        box, area, second = measure(mask, origin) if mask.size else ((0, 0, 0, 0), 0.0, 0.0)
        return self._corners(box), area, second

    def _corners(self, box: Rectangle) -> Corners:
        x, y, width, height = box
        return x, y, min(x + width, self.right), min(y + height, self.bottom)

    def _bounded(self, one: Corners, other: Corners) -> float:
        """Best over the true boxes of: what the one box shares with it, by the union with the other box.

        With one box twice this is the IoU. For a box between an inner and an outer one it is the least it can be from
        (inner, outer), and the largest from (outer, inner).
        """
        area = (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
        best = 0.0
        for true in self.truths:
            union = area + (true[2] - true[0] + 1) * (true[3] - true[1] + 1) - _shared(other, true)
            best = max(best, _shared(one, true) / union)
        return best


def _shared(one: Corners, other: Corners) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    return width * height if width > 0 and height > 0 else 0
