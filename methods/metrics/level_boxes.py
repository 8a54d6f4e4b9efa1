"""Boxes of one map at all of its levels: which of them meet the true boxes.

Components only shrink as the threshold rises, and so do their boxes. Hence no level has to be looked at where even the
whole of what lies above it could no longer meet the object; and of all components only those are followed whose own
boxes still could. At the lowest levels one component reaches from side to side, and the rest is too small to count. For
the largest component, no level between two has to be looked at either if it stays the largest between them, and its
box, that lies between theirs, can only be judged as theirs.
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

CHUNK = 16
"""Thresholds whose boxes are compared at once, before a look at what can be left out above them."""
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
        ``(T,)`` ascending and different; foreground is above, and empty at most for a single one.
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
        best[:count] = (
            image.all_ious(count, float(deltas.min()))
            if contours == "all"
            else image.largest_ious(count, deltas.tolist())
        )
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
        self.whole: Corners = (0, 0, self.right, self.bottom)
        bounds = []
        for axis in (0, 1):
            above = levels.max(axis=axis)[None] > thresholds[:, None]
            last = np.where(above.any(axis=1), above.shape[1] - above[:, ::-1].argmax(axis=1), 0)
            bounds.append((above.argmax(axis=1), last))
        (x0, x1), (y0, y1) = bounds
        self.crops = np.stack([x0, y0, x1, y1], axis=1)
        self.support = np.minimum(self.crops, [self.right, self.bottom, self.right, self.bottom])

    def all_ious(self, count: int, least: float) -> Floats:
        """Best IoU of any box at each of the first thresholds; 0 may stand for one below ``least``."""
        best = np.zeros(count)
        start = self._whole(count, least)
        best[:start] = self._bounded(self.whole, self.whole)
        region = self.whole
        while start < count:
            places = range(start, min(start + CHUNK, count))
            boxes, starts = self._drawn(places, region)
            ious, shares = self._compared(boxes)
            best[places.start : places.stop] = np.maximum.reduceat(ious, starts)
            # All that is above the next thresholds lies in components of the last, each in one.
            large = boxes[starts[-1] :][shares[starts[-1] :] >= least]
            if not len(large):
                break
            (x0, y0), (x1, y1) = large[:, :2].min(axis=0).tolist(), large[:, 2:].max(axis=0).tolist()
            region, start = (x0, y0, x1, y1), places.stop
        return best

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

    def _whole(self, count: int, least: float) -> int:
        """How many of the first thresholds have one box that counts, that of the whole map.

        If no 8-connected part of what is at most the threshold reaches from side to side, one component touches all
        sides. Whatever else has a box, now or at a lower threshold, is enclosed by one of these parts, perhaps
        together with the map's border, and hence in its box or, if it is a hole, one pixel around it.
        """
        draw = opencv_rectangles if has_opencv() else scipy_rectangles
        width, height = self.right + 1, self.bottom + 1
        low, high, middle = 0, count, 0
        while low < high:
            below = self.levels <= self.thresholds[middle]
            parts = np.array(draw(below, "all") if below.any() else [(0, 0, 0, 0)], dtype=np.int64)
            crossing = (parts[:, 2] == width) | (parts[:, 3] == height)
            if not crossing.any():
                grown = np.concatenate([parts[:, :2] - 1, parts[:, :2] + parts[:, 2:] + 1], axis=1)
                crossing = self._compared(grown)[1] >= least
            low, high = (low, middle) if crossing.any() else (middle + 1, high)
            middle = (low + high) // 2
        return low

    def _drawn(self, places: range, region: Corners) -> tuple[Boxes, list[int]]:
        """Boxes of all contours in a region at each of some thresholds, and where those of each one start."""
        draw = opencv_rectangles if has_opencv() else scipy_rectangles
        outside = [(self.right + 2, self.bottom + 2, 0, 0)]
        drawn: list[Rectangle] = []
        starts = []
        # What lies above the first threshold is the bound for all.
        x0, y0, x1, y1 = self.crops[places.start].tolist()
        x0, y0, x1, y1 = max(x0, region[0]), max(y0, region[1]), min(x1, region[2] + 1), min(y1, region[3] + 1)
        levels = self.levels[y0:y1, x0:x1]
        for place in places:
            starts.append(len(drawn))
            found = draw(levels > self.thresholds[place], "all", (x0, y0)) if levels.size else []
            drawn += found or (outside if self.crops[place, 2] else [(0, 0, 0, 0)])
        boxes = np.array(drawn, dtype=np.int64)
        boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], [self.right, self.bottom])
        return boxes, starts

    def _compared(self, boxes: Boxes) -> tuple[Floats, Floats]:
        """Best IoU of each box, and the largest share of a true one in it; both ``(n,)``."""
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        areas = sides[:, 0] * sides[:, 1]
        ious, shares = np.zeros((2, len(boxes)))
        for x0, y0, x1, y1 in self.truths:
            width = np.minimum(boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0) + 1
            height = np.minimum(boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0) + 1
            shared, area = np.maximum(width, 0) * np.maximum(height, 0), (x1 - x0 + 1) * (y1 - y0 + 1)
            np.maximum(ious, shared / (areas + area - shared), out=ious)
            np.maximum(shares, shared / area, out=shares)
        return ious, shares

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
