"""Refinement: stored soft maps to label masks with a confidence, without the network."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from configs import RunConfig
from configs.schema import OtsuStep, ThresholdStep
from methods.activation import enlarge, min_max
from methods.refinement import merge_classes, otsu_thresholds
from storage.faults import dying_point
from storage.index import IGNORE, ImageIndex, Shard
from storage.labels import Mask, label_specs, to_canvas
from storage.stages import FACTS, StageFolder
from tasks.context import FolderWork
from tasks.propose import SCORE

MASK_FACTS = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("class", pa.string()),
        ("class_id", pa.int16()),
        ("pair", pa.int64()),
        ("threshold", pa.int16()),
        ("share", pa.float64()),
        ("score", pa.float32()),
        ("confidence", pa.float64()),
        ("flag", pa.string()),
    ]
)
NONFINITE = "nonfinite"


def begin_masks(folder: StageFolder, basis: dict[str, Any], index: ImageIndex, staged: str) -> None:
    """Create the label and confidence arrays of a label set."""
    size = int(basis["shard_images"])
    folder.begin(
        basis,
        shards=len(index.shards(size)),
        classes=index.classes,
        arrays=label_specs(index, size),
        index_stage=staged,
    )


def image_maps(stored: np.ndarray[Any, Any], size: tuple[int, int]) -> Tensor:
    """Stored maps of one image (K, h, w) at the image's size, each min-max normalised."""
    maps = torch.from_numpy(stored.astype(np.float32))
    return min_max(enlarge(maps, size))


class PairMaps:
    """Soft maps of one shard by image row."""

    def __init__(self, proposal: StageFolder, shard: int) -> None:
        self.by_row: dict[int, list[dict[str, Any]]] = {}
        for pair in proposal.shard_table(shard).to_pylist():
            self.by_row.setdefault(pair["row"], []).append(pair)
        room = proposal.spec(SCORE).shard_rows
        self.first = shard * room
        self.stored = proposal.rows(SCORE, shard, self.first, self.first + room)

    def maps(self, row: int, size: tuple[int, int]) -> Tensor:
        """Maps of one image at its own size, (K, H, W), in the order of :attr:`by_row`."""
        places = [pair["pair"] - self.first for pair in self.by_row[row]]
        return image_maps(self.stored[places], size)


class RefineWork(FolderWork):
    """Masks of one proposal."""

    title = "refine"

    def __init__(self, config: RunConfig, index: ImageIndex, proposal: StageFolder, folder: StageFolder) -> None:
        self.config, self.index, self.proposal, self.folder = config, index, proposal, folder
        self.shards = index.shards(config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Decide the labels of one shard."""
        began = time.monotonic()
        part = self.shards[shard]
        pairs = PairMaps(self.proposal, shard)
        labels: dict[int, Mask] = {}
        confidences: dict[int, Mask] = {}
        facts: list[dict[str, Any]] = []
        for row in self.index.working_rows(part):
            labels[row], confidences[row], found = self._image(row, pairs)
            facts += found
        dying_point("infer")
        self._write(part, labels, confidences, facts, began)

    def _image(self, row: int, pairs: PairMaps) -> tuple[Mask, Mask, list[dict[str, Any]]]:
        size = self.index.sizes[row]
        found = pairs.by_row.get(row, [])
        if any(pair["flag"] == NONFINITE for pair in found):
            unknown = np.full(size, IGNORE, np.uint8)
            return unknown, np.zeros(size, np.uint8), [_facts(pair, -1, unknown, 0.0) for pair in found]
        maps = pairs.maps(row, size) if found else torch.zeros(0, *size)
        thresholds = self._thresholds(maps)
        classes = torch.tensor([pair["class_id"] for pair in found], dtype=torch.int64)
        label, confidence = (part.numpy() for part in merge_classes(maps, thresholds, classes))
        mean = float(confidence.mean()) / 255
        decided = zip(found, thresholds.tolist(), strict=True)
        return label, confidence, [_facts(pair, threshold, label, mean) for pair, threshold in decided]

    def _thresholds(self, maps: Tensor) -> Tensor:
        """One threshold on the 0..255 grid per map, -1 for a constant one."""
        match self.config.refine[-1]:
            case OtsuStep():
                return otsu_thresholds(maps)
            case ThresholdStep(value=value):
                flat = maps.flatten(1)
                constant = flat.amax(1) == flat.amin(1) if len(flat) else torch.zeros(0, dtype=torch.bool)
                fixed = torch.full((len(maps),), int(255 * value), dtype=torch.int64)
                return torch.where(constant, -torch.ones_like(fixed), fixed)

    def _write(
        self,
        shard: Shard,
        labels: dict[int, Mask],
        confidences: dict[int, Mask],
        facts: list[dict[str, Any]],
        began: float,
    ) -> None:
        name = self.index.array_name
        arrays = {
            name("label", shard.canvas): (shard.object, to_canvas(labels, shard, IGNORE)),
            name("confidence", shard.canvas): (shard.object, to_canvas(confidences, shard, 0)),
        }
        tables = {FACTS: pa.Table.from_pylist(facts, MASK_FACTS)}
        self.folder.write(shard.number, arrays=arrays, tables=tables, began=began)


def _facts(pair: dict[str, Any], threshold: int, label: Mask, confidence: float) -> dict[str, Any]:
    kept = {name: pair[name] for name in ("row", "image_id", "class", "class_id", "pair", "score", "flag")}
    share = float((label == pair["class_id"]).mean())
    return {**kept, "threshold": threshold, "share": share, "confidence": confidence}
