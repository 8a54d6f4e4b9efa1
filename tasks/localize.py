"""Localization: how well soft maps and masks find the objects of an image, as counts per image and class."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import ndimage

from configs import RunConfig
from methods.metrics import (
    BoxAccuracy,
    PixelAveragePrecision,
    box_iou,
    centred_gaussian,
    localization_error,
    scale_boxes,
)
from methods.metrics.floors import centred_box, whole_image
from methods.refinement import component_boxes
from storage.boxes import BoxStore
from storage.faults import dying_point
from storage.index import ImageIndex, Shard
from storage.labels import LabelStore, Mask
from storage.mask_values import mask_values
from storage.stages import FACTS, StageFolder
from storage.truth import localization_truth
from tasks.context import FolderWork
from tasks.evaluate import CENTRED_BOX, WHOLE_IMAGE
from tasks.refine import NONFINITE, PairMaps

SIDE = 224
CENTRED_GAUSSIAN = "centred_gaussian"
CONTOURS = ("largest", "all")
COUNTS = pa.schema(
    [
        ("row", pa.int64()),
        ("class_id", pa.int16()),
        ("split", pa.string()),
        ("method", pa.string()),
        ("hits_largest", pa.binary()),
        ("hits_all", pa.binary()),
        ("foreground", pa.binary()),
        ("background", pa.binary()),
        ("box_iou", pa.float64()),
        ("error", pa.string()),
    ]
)
"""Per image, class and method; "" is the proposal itself. ``hits_*``: bits of BoxAccuracy.update, packed;
``foreground`` and ``background``: pixels per bin of scores, little-endian uint16; ``box_iou`` and ``error`` (as if the
class were predicted right) of the box around the mask's largest part. Null where nothing says it: no box, no mask."""

Boxes = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Row = dict[str, Any]


def truth_boxes(truth: Mask, value: int) -> Boxes:
    """Boxes around the 8-connected parts of one value of a mask, ``(n, 4)`` in its pixels.

    Examples
    --------
    >>> truth_boxes(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 255]], np.uint8), 1).tolist()
    [[0, 0, 2, 2]]
    """
    parts, _ = ndimage.label(truth == value, np.ones((3, 3), np.int8))
    found = [[across.start, down.start, across.stop, down.stop] for down, across in ndimage.find_objects(parts)]
    return np.asarray(found, np.int64).reshape(-1, 4)


@dataclass
class _Target:
    """What an image's map of one class is compared with; None where nothing is known."""

    row: int
    class_id: int
    boxes: Boxes | None
    mask: Mask | None
    facts: Row = field(default_factory=dict)


class LocalizeWork(FolderWork):
    """Counts of one proposal's maps and of the masks made from them; without a proposal those of the floors.

    An image counts once per label of it. A map that is not finite is left out: its image is in quarantine.
    """

    title = "localize"
    in_python = True

    def __init__(
        self,
        config: RunConfig,
        index: ImageIndex,
        boxes: BoxStore | None,
        truth: LabelStore | None,
        folder: StageFolder,
        *,
        proposal: StageFolder | None = None,
        labels: LabelStore | None = None,
    ) -> None:
        self.config, self.index, self.boxes, self.truth = config, index, boxes, truth
        self.folder, self.proposal, self.labels = folder, proposal, labels
        self.shards = index.shards(config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Count one shard."""
        began = time.monotonic()
        part = self.shards[shard]
        rows = self._floors(part) if self.proposal is None else self._proposal(part, self.proposal)
        dying_point("infer")
        self.folder.write(shard, tables={FACTS: pa.Table.from_pylist(rows, COUNTS)}, began=began)

    def _proposal(self, part: Shard, proposal: StageFolder) -> list[Row]:
        pairs = PairMaps(proposal, part.number)
        masks = self.labels.shard_masks(part) if self.labels else None
        rows: list[Row] = []
        for target in self._targets(part):
            found = pairs.by_row.get(target.row, [])
            place = next((k for k, pair in enumerate(found) if pair["class_id"] == target.class_id), None)
            if place is None or any(pair["flag"] == NONFINITE for pair in found):
                continue
            score = pairs.scores(target.row, (SIDE, SIDE))[place].numpy().astype(np.float64)
            facts = {**self._score(target, score), "method": ""}
            if masks is not None:
                height, width = self.index.sizes[target.row]
                mask = masks[target.row - part.rows.start, :height, :width]
                facts |= mask_facts(target, mask == self._value(target))
            rows.append({**self._named(target), **facts})
        return rows

    def _floors(self, part: Shard) -> list[Row]:
        gaussian, rows = centred_gaussian((SIDE, SIDE)), []
        for target in self._targets(part):
            size = self.index.sizes[target.row]
            rows.append({**self._named(target), "method": CENTRED_GAUSSIAN, **self._score(target, gaussian)})
            floors = {
                WHOLE_IMAGE: whole_image([1], size),
                CENTRED_BOX: centred_box([1], size, self.config.evaluate.centred_box),
            }
            for method, mask in floors.items():
                if facts := mask_facts(target, mask == 1):
                    rows.append({**self._named(target), "method": method, **facts})
        return rows

    def _targets(self, part: Shard) -> Iterator[_Target]:
        """What is known of every label of the shard's images."""
        truths = self.truth.shard_masks(part) if self.truth else None
        left_out = self.left_out(part.number)
        for row in (row for row in self.images(part.number) if row not in left_out):
            height, width = self.index.sizes[row]
            truth = None if truths is None else truths[row - part.rows.start, :height, :width]
            truth = None if truth is None or (truth == 255).all() else truth
            for class_id in self.index.class_ids[row]:
                boxes = self._boxes(row, class_id, truth)
                mask = None if truth is None else _class_truth(truth, class_id)
                if boxes is not None or mask is not None:
                    yield _Target(row, class_id, boxes, mask)

    def _boxes(self, row: int, class_id: int, truth: Mask | None) -> Boxes | None:
        if self.boxes is not None:
            found = self.boxes.boxes(row)[self.boxes.class_ids(row) == class_id]
        elif truth is not None and self.config.evaluate.boxes == "truth":
            found = truth_boxes(truth, class_id)
        else:
            return None
        return found if len(found) else None

    def _value(self, target: _Target) -> int:
        ids = self.index.class_ids[target.row]
        return mask_values(ids, len(self.index.classes))[list(ids).index(target.class_id)]

    def _named(self, target: _Target) -> Row:
        return {"row": target.row, "class_id": target.class_id, "split": self.index.splits[target.row]}

    def _score(self, target: _Target, score: Scores) -> Row:
        facts: Row = {}
        if target.boxes is not None:
            boxes = [scale_boxes(target.boxes, self.index.sizes[target.row], SIDE)]
            for contours in ("largest", "all"):
                hits = BoxAccuracy(contours=contours).update(score[None], boxes)[0]
                facts[f"hits_{contours}"] = np.packbits(hits).tobytes()
        if target.mask is not None:
            state = PixelAveragePrecision()
            state.update(score[None], target.mask[None])
            # 224 x 224 pixels are below 2^16.
            for name in ("foreground", "background"):
                facts[name] = getattr(state, name).astype("<u2").tobytes()
        return facts


def mask_facts(target: _Target, mask: npt.NDArray[np.bool_]) -> Row:
    """IoU of the box around a mask's largest part with the best true box, and the kind of its error; {} without boxes.

    No part, no box: an IoU of 0, in the wrong region.
    """
    if target.boxes is None:
        return {}
    box = component_boxes(mask)
    if not len(box):
        return {"box_iou": 0.0, "error": "wrong_region"}
    # Boxes of components end one past the last pixel as true ones do; both stay inside of the image.
    error = localization_error(box[0], target.boxes, True)
    return {"box_iou": float(box_iou(box, target.boxes).max()), "error": error}


def _class_truth(truth: Mask, class_id: int) -> Mask | None:
    """The mask of one class on the grid of scores: 1, 0, 255 ignored; None where it has no pixel of it."""
    if not (truth == class_id).any():
        return None
    other: Sequence[Any] = [truth == 255, truth == class_id]
    return localization_truth(np.select(other, [255, 1], 0).astype(np.uint8), SIDE)
