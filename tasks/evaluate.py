"""Counting: masks against the ground truth, image by image, as integers that add up over shards."""

import time
from typing import Any

import numpy as np
import pyarrow as pa

from configs import RunConfig
from methods.metrics import curve_counts, pair_counts
from methods.metrics.floors import centred_box, whole_image
from storage.faults import dying_point
from storage.index import ImageIndex, Shard
from storage.labels import LabelStore, Mask
from storage.stages import FACTS, StageFolder
from tasks.context import FolderWork, ShardWork
from tasks.refine import NONFINITE, PairMaps

IGNORE = 255
CURVE = "curve"
CENTRED_BOX, WHOLE_IMAGE = "centred_box", "whole_image"
COUNTS = pa.schema(
    [
        ("row", pa.int64()),
        ("split", pa.string()),
        ("method", pa.string()),
        ("truth", pa.int16()),
        ("predicted", pa.int16()),
        ("count", pa.int64()),
    ]
)
CURVE_COUNTS = pa.schema(
    [
        ("split", pa.string()),
        ("truth", pa.int16()),
        ("best", pa.int16()),
        ("level", pa.int16()),
        ("count", pa.int64()),
    ]
)


def sparse_counts(predicted: Mask, truth: Mask, classes: int) -> list[dict[str, int]]:
    """Confusion of one image without its zeros; ``classes`` counts background too."""
    counts = pair_counts(predicted, truth, classes)
    cells = zip(*np.nonzero(counts), strict=True)
    return [
        {"truth": int(t), "predicted": int(p) if p < classes else IGNORE, "count": int(counts[t, p])} for t, p in cells
    ]


class EvaluateWork(FolderWork):
    """Counts of one label set, and of every threshold on the soft maps it came from."""

    title = "evaluate"
    in_python = True

    def __init__(
        self,
        truth: LabelStore,
        labels: LabelStore,
        proposal: StageFolder | None,
        folder: StageFolder,
        shard_images: int,
        *,
        curve: bool = False,
    ) -> None:
        self.truth, self.labels, self.folder = truth, labels, folder
        self.swept = proposal if curve else None
        self.index: ImageIndex = truth.index
        self.shards = self.index.shards(shard_images)

    def __call__(self, shard: int) -> None:
        """Count one shard."""
        began = time.monotonic()
        part = self.shards[shard]
        truths, masks = self.truth.shard_masks(part), self.labels.shard_masks(part)
        rows = judged_rows(self, shard, truths)
        counts = []
        for row in rows:
            cells = sparse_counts(
                masks[row - part.rows.start], truths[row - part.rows.start], len(self.index.classes) + 1
            )
            counts += [{"row": row, "split": self.index.splits[row], "method": "", **cell} for cell in cells]
        tables = {FACTS: pa.Table.from_pylist(counts, COUNTS)}
        if self.swept is not None:
            tables[CURVE] = self._curve(self.swept, part, rows, truths)
        dying_point("infer")
        self.folder.write(shard, tables=tables, began=began)

    def _curve(self, proposal: StageFolder, part: Shard, rows: list[int], truths: Mask) -> pa.Table:
        pairs = PairMaps(proposal, part.number)
        total = len(self.index.classes)
        sums: dict[str, np.ndarray[Any, Any]] = {}
        for row in rows:
            found = pairs.by_row.get(row, [])
            if any(pair["flag"] == NONFINITE for pair in found):
                continue
            height, width = self.index.sizes[row]
            truth = truths[row - part.rows.start, :height, :width]
            maps = pairs.maps(row, (height, width)).numpy() if found else np.zeros((0, height, width), np.float32)
            classes = np.asarray([pair["class_id"] for pair in found], np.int64)
            counts = curve_counts(maps, classes, truth, total)
            split = self.index.splits[row]
            sums[split] = sums[split] + counts if split in sums else counts
        cells = [
            {"split": split, "truth": int(t), "best": int(b), "level": int(q), "count": int(counts[t, b, q])}
            for split, counts in sums.items()
            for t, b, q in zip(*np.nonzero(counts), strict=True)
        ]
        return pa.Table.from_pylist(cells, CURVE_COUNTS)


class ChangeWork(FolderWork):
    """Counts of one label set against the one before it: what a step of refinement changed."""

    title = "changes"
    in_python = True

    def __init__(self, config: RunConfig, before: LabelStore, after: LabelStore, folder: StageFolder) -> None:
        self.before, self.after, self.folder = before, after, folder
        self.index: ImageIndex = before.index
        self.shards = self.index.shards(config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Count one shard."""
        began = time.monotonic()
        part = self.shards[shard]
        before, after = self.before.shard_masks(part), self.after.shard_masks(part)
        rows = judged_rows(self, shard, before)
        total, counts = len(self.index.classes) + 1, []
        for row in rows:
            place = row - part.rows.start
            cells = sparse_counts(after[place], before[place], total)
            counts += [{"row": row, "split": self.index.splits[row], "method": "", **cell} for cell in cells]
        dying_point("infer")
        self.folder.write(shard, tables={FACTS: pa.Table.from_pylist(counts, COUNTS)}, began=began)


class FloorWork(FolderWork):
    """Counts of masks made without looking: what every method has to beat."""

    title = "floors"
    in_python = True

    def __init__(self, config: RunConfig, truth: LabelStore, folder: StageFolder) -> None:
        self.config, self.truth, self.folder = config, truth, folder
        self.index: ImageIndex = truth.index
        self.shards = self.index.shards(config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Count one shard."""
        began = time.monotonic()
        part = self.shards[shard]
        truths = self.truth.shard_masks(part)
        counts = []
        for row in judged_rows(self, shard, truths):
            size, classes = self.index.sizes[row], self.index.class_ids[row]
            truth = truths[row - part.rows.start, : size[0], : size[1]]
            floors = {
                WHOLE_IMAGE: whole_image(classes, size),
                CENTRED_BOX: centred_box(classes, size, self.config.evaluate.centred_box),
            }
            for method, mask in floors.items():
                cells = sparse_counts(mask, truth, len(self.index.classes) + 1)
                counts += [{"row": row, "split": self.index.splits[row], "method": method, **cell} for cell in cells]
        dying_point("infer")
        self.folder.write(shard, tables={FACTS: pa.Table.from_pylist(counts, COUNTS)}, began=began)


def judged_rows(work: ShardWork, shard: int, truths: Mask) -> list[int]:
    """Rows of a shard that have a ground truth (at least one pixel that is not ignored) and are not left out."""
    first, left_out = work.shards[shard].rows.start, work.left_out(shard)
    return [row for row in work.images(shard) if row not in left_out and (truths[row - first] != IGNORE).any()]
