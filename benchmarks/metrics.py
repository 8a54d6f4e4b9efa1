"""Localization and segmentation counts against loops over thresholds and against torchmetrics.

``python -m benchmarks.metrics [ROUNDS]``. MaxBoxAcc: :class:`methods.metrics.BoxAccuracy` against a loop over the
thresholds that draws OpenCV's contours at each one and compares the boxes of all of them with the true ones at once,
on maps of 7 to 28 cells enlarged to 224 pixels (as class activations are), on blobs, and on noise. Counts must be
identical. A figure is the floor's time over ours: larger is better. OpenCV has one thread; times are of the processor.
Without OpenCV ours is timed against the loop with it, and at 100 thresholds against one with SciPy's components, which
is what is left without it.
Confusion: against ``torchmetrics`` where it is installed, of labels of which one in twenty is to be ignored; ours
always ignores and checks, theirs does either by option.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import interleaved, ratio, show
from methods.metrics import BoxAccuracy, ConfusionMatrix
from methods.metrics.boxes import box_iou
from methods.refinement.component_boxes import Contours, component_boxes

SIDE, IOUS = 224, (30, 50, 70)
Maps = NDArray[np.float64]


def enlarged(cells: int, count: int) -> Maps:
    """Maps like class activations: few cells, a quarter of them active, enlarged."""
    random = np.random.default_rng(cells)
    coarse = random.random((count, cells, cells)) ** 3
    maps = np.stack([cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for one in coarse])
    maps -= maps.min(axis=(1, 2), keepdims=True)
    scaled: Maps = maps / maps.max(axis=(1, 2), keepdims=True)
    return scaled


def blobs(count: int) -> Maps:
    """One object and one weaker distractor each."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres, widths = random.uniform(40, 184, (count, 2, 2)), random.uniform(12, 45, (count, 2))
    peaks = np.stack(
        [
            [np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / w**2) for (cx, cy), w in zip(places, sizes, strict=True)]
            for places, sizes in zip(centres, widths, strict=True)
        ]
    )
    maps: Maps = np.maximum(peaks[:, 0], 0.8 * peaks[:, 1])
    maps /= maps.max(axis=(1, 2), keepdims=True)
    return maps


def subjects(count: int) -> dict[str, Maps]:
    """Maps by kind."""
    noise = np.random.default_rng(0).random((1, SIDE, SIDE))
    return {"blobs": blobs(count)} | {f"{n} cells": enlarged(n, count) for n in (7, 14, 28)} | {"noise": noise}


def true_boxes(count: int) -> list[NDArray[np.int64]]:
    """A box per image, off the centre."""
    corners = np.random.default_rng(2).integers(10, 110, (count, 1, 2))
    sides = np.random.default_rng(3).integers(50, 100, (count, 1, 2))
    return list(np.concatenate([corners, corners + sides], axis=2))


def threshold_loop(maps: Maps, truths: list[NDArray[np.int64]], step: float, contours: Contours) -> NDArray[np.int64]:
    """Counts of correct images, ``(IoU thresholds, score thresholds)``, contours drawn at every threshold."""
    thresholds = np.arange(0, 1, step)
    correct = np.zeros((len(IOUS), len(thresholds)), dtype=np.int64)
    for scores, truth in zip(maps, truths, strict=True):
        levels = (scores * 255).astype(np.uint8)
        boxes: list[list[int]] = []
        starts: list[int] = []
        for threshold in thresholds:
            _, mask = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
            found: Any = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
            if contours == "largest" and found:
                found = [max(found, key=cv2.contourArea)]
            starts.append(len(boxes))
            for polygon in found:
                x, y, width, height = cv2.boundingRect(polygon)
                boxes.append([x, y, min(x + width, SIDE - 1), min(y + height, SIDE - 1)])
            if not found:
                boxes.append([0, 0, 0, 0])
        best = np.maximum.reduceat(box_iou(np.array(boxes), truth).max(axis=1), starts)
        correct += best >= np.array(IOUS)[:, None] / 100
    return correct


def scipy_loop(maps: Maps, truths: list[NDArray[np.int64]], step: float, contours: Contours) -> NDArray[np.int64]:
    """The same loop with the components of SciPy."""
    thresholds = np.arange(0, 1, step)
    correct = np.zeros((len(IOUS), len(thresholds)), dtype=np.int64)
    for scores, truth in zip(maps, truths, strict=True):
        levels = (scores * 255).astype(np.uint8)
        for place, threshold in enumerate(thresholds):
            boxes = component_boxes(levels > int(threshold * levels.max()), contours, backend="scipy")
            boxes = np.minimum(boxes, SIDE - 1) if len(boxes) else np.zeros((1, 4), dtype=np.int64)
            correct[:, place] += box_iou(boxes, truth).max() >= np.array(IOUS) / 100
    return correct


def ours(maps: Maps, truths: list[NDArray[np.int64]], step: float, contours: Contours) -> NDArray[np.int64]:
    """The same counts."""
    accuracy = BoxAccuracy(IOUS, step, contours)
    accuracy.update(maps, truths)
    return accuracy.correct


def without_opencv(maps: Maps, truths: list[NDArray[np.int64]], step: float, contours: Contours) -> NDArray[np.int64]:
    """The same counts as where OpenCV is not installed."""
    with patch("methods.metrics.level_boxes.has_opencv", lambda: False):
        return ours(maps, truths, step, contours)


CONTOURS: tuple[Contours, Contours] = ("largest", "all")
Way = Callable[[Maps, list[NDArray[np.int64]], float, Contours], NDArray[np.int64]]
WAYS: dict[str, Way] = {"loop": threshold_loop, "scipy loop": scipy_loop, "ours": ours, "scipy": without_opencv}


def box_rows(rounds: int, count: int) -> list[list[object]]:
    """Ratios per kind of map, number of thresholds and contours."""
    rows: list[list[object]] = []
    for kind, maps in subjects(count).items():
        truths = true_boxes(len(maps))
        for step, contours in product((0.001, 0.01), CONTOURS):
            ways = {name: partial(way, maps, truths, step, contours) for name, way in WAYS.items()}
            if step < 0.01:
                del ways["scipy loop"]
            floor, *counts = [way() for way in ways.values()]
            same = all(np.array_equal(floor, one) for one in counts)
            times = interleaved({**ways}, rounds, time.process_time)
            milliseconds = statistics.median(times["loop"]) / len(maps) * 1e3
            gains = [gain(times, "loop", "ours"), gain(times, "loop", "scipy")]
            gains.append(gain(times, "scipy loop", "scipy") if "scipy loop" in ways else "")
            rows.append([kind, round(1 / step), contours, same, milliseconds, *gains])
    return rows


def gain(times: dict[str, list[float]], floor: str, name: str) -> str:
    """Median over the rounds of the floor's time over that of ``name``."""
    return f"{ratio(times[floor], times[name]):.2f}"


def confusion_rows(rounds: int) -> list[list[object]]:
    """Times of one image, and by how much ours is faster."""
    random = np.random.default_rng(0)
    predicted, truth = (random.integers(0, 21, (375, 500)).astype(np.uint8) for _ in range(2))
    truth[random.random(truth.shape) < 0.05] = 255
    calls: dict[str, Callable[[], object]] = {"ours": lambda: ConfusionMatrix(21).update(predicted, truth)}
    try:
        import torch
        from torchmetrics.functional.classification import (  # type: ignore[import-not-found,unused-ignore]
            multiclass_confusion_matrix,
        )
    except ImportError:
        print("torchmetrics is not installed: no comparison of confusion matrices")
    else:
        tensors = [torch.from_numpy(one.astype(np.int64)) for one in (predicted, truth)]
        bare = [tensors[0], tensors[1].where(tensors[1] < 21, 0)]
        theirs = partial(multiclass_confusion_matrix, num_classes=21)
        ignoring = partial(theirs, *tensors, ignore_index=255)
        mine = ConfusionMatrix(21)
        mine.update(predicted, truth)
        if not np.array_equal(ignoring().numpy(), mine.counts[:, :21]):
            raise AssertionError("expected the counts of torchmetrics")
        calls |= {
            "torchmetrics, checks and ignores": ignoring,
            "torchmetrics, ignores": partial(ignoring, validate_args=False),
            "torchmetrics, neither": partial(theirs, *bare, validate_args=False),
        }
    times = interleaved(calls, rounds, time.process_time)
    return [[name, statistics.median(took) * 1e3, gain(times, name, "ours")] for name, took in times.items()]


def main(rounds: str = "3", count: str = "6") -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    header = [
        "maps",
        "thresholds",
        "contours",
        "identical",
        "loop, ms a map",
        "gain",
        "gain, no OpenCV",
        "over SciPy loop",
    ]
    show("MaxBoxAcc against the threshold loop with OpenCV", header, box_rows(int(rounds), int(count)))
    show("confusion, 375 x 500, 21 classes", ["what", "ms", "times ours"], confusion_rows(10 * int(rounds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
