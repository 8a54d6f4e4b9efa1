"""Refinement: stored soft maps to label masks with a confidence, without the network."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from configs import RunConfig
from configs.refine import LOOKS_AT_IMAGE
from methods.activation import enlarge, min_max
from storage.faults import dying_point
from storage.index import IGNORE, ImageIndex, Shard
from storage.labels import Mask, label_specs, to_canvas
from storage.mask_values import mask_values
from storage.stages import FACTS, StageFolder, unit_name
from tasks.chain import Chain, StepError
from tasks.context import ShardWork
from tasks.images import ImageSource
from tasks.propose import SCORE
from tasks.state import LabelSet

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
FAILED = pa.schema([("row", pa.int64()), ("image_id", pa.string()), ("step", pa.string()), ("reason", pa.string())])
FAILURES = "failures"
NONFINITE = "nonfinite"
Facts = dict[str, Any]
Named = tuple[Facts, int]


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
        self.probabilities = bool(proposal.manifest["basis"].get("probabilities"))
        room = proposal.spec(SCORE).shard_rows
        self.first = shard * room
        self.stored = proposal.rows(SCORE, shard, self.first, self.first + room)

    def maps(self, row: int, size: tuple[int, int]) -> Tensor:
        """Maps of one image at a size, (K, H, W), each min-max normalised, in the order of :attr:`by_row`."""
        return image_maps(self._stored(row), size)

    def scores(self, row: int, size: tuple[int, int]) -> Tensor:
        """The same for metrics: probabilities as they are, anything else normalised."""
        if not self.probabilities:
            return self.maps(row, size)
        ends = [(pair["minimum"], pair["maximum"]) for pair in self.by_row[row]]
        low, high = torch.tensor(ends, dtype=torch.float32).T[..., None, None]
        maps = torch.from_numpy(self._stored(row).astype(np.float32)) * (high - low) + low
        return enlarge(maps, size).clamp(0, 1)

    def _stored(self, row: int) -> np.ndarray[Any, Any]:
        return self.stored[[pair["pair"] - self.first for pair in self.by_row[row]]]


class RefineWork(ShardWork):
    """Label sets of one proposal: what every prefix of the steps makes of its maps."""

    title = "refine"
    in_python = True

    def __init__(
        self,
        config: RunConfig,
        index: ImageIndex,
        source: ImageSource,
        proposal: StageFolder,
        correlated: StageFolder | None,
        sets: Sequence[LabelSet],
    ) -> None:
        self.index, self.source, self.proposal, self.correlated, self.sets = index, source, proposal, correlated, sets
        self.shards = index.shards(config.runtime.shard_images)

    @property
    def folders(self) -> list[StageFolder]:
        """Those of the label sets."""
        return [one.folder for one in self.sets]

    def __call__(self, shard: int) -> None:
        """Decide the labels of one shard for the label sets that lack it."""
        began = time.monotonic()
        part = self.shards[shard]
        todo = [one for one in self.sets if not one.folder.log.path(unit_name(shard)).exists()]
        reader = ChainReader(self.index, self.source, self.proposal, self.correlated, shard)
        found = [_Decided() for _ in todo]
        left_out = self.left_out(shard)
        for row in self.images(shard):
            chain = None if row in left_out else reader.chain(row, todo)
            for one, kept in zip(todo, found, strict=True):
                pairs = list(zip(reader.pairs.by_row.get(row, []), reader.values(row), strict=True))
                self._image(row, one, chain, pairs, kept)
        dying_point("infer")
        for one, kept in zip(todo, found, strict=True):
            self._write(one.folder, part, kept, began)

    def _image(self, row: int, one: LabelSet, chain: Chain | None, pairs: list[Named], kept: "_Decided") -> None:
        try:
            if chain is None:
                raise StepError(NONFINITE, "a map is not finite")
            decision = chain.decide(one.steps)
        except StepError as error:
            self._set_aside(row, error, pairs, kept)
            return
        label, confidence = decision.label.numpy(), decision.confidence.numpy()
        mean = float(confidence.mean()) / 255
        kept.labels[row], kept.confidences[row] = label, confidence
        decided = zip(pairs, decision.thresholds, strict=True)
        kept.facts += [_facts(pair, threshold, label, mean) for pair, threshold in decided]

    def _set_aside(self, row: int, error: StepError, pairs: list[Named], kept: "_Decided") -> None:
        """An image that a step fails at says nothing: 255 throughout."""
        size = self.index.sizes[row]
        kept.labels[row], kept.confidences[row] = np.full(size, IGNORE, np.uint8), np.zeros(size, np.uint8)
        kept.facts += [_facts(pair, -1, kept.labels[row], 0.0) for pair in pairs]
        if error.step != NONFINITE:  # told by the proposal's own facts
            failure = {"row": row, "image_id": self.index.ids[row], "step": error.step, "reason": error.reason}
            kept.failures.append(failure)

    def _write(self, folder: StageFolder, shard: Shard, kept: "_Decided", began: float) -> None:
        name = self.index.array_name
        arrays = {
            name("label", shard.canvas): (shard.object, to_canvas(kept.labels, shard, IGNORE)),
            name("confidence", shard.canvas): (shard.object, to_canvas(kept.confidences, shard, 0)),
        }
        tables = {
            FACTS: pa.Table.from_pylist(kept.facts, MASK_FACTS),
            FAILURES: pa.Table.from_pylist(kept.failures, FAILED),
        }
        folder.write(shard.number, arrays=arrays, tables=tables, began=began)


@dataclass
class _Decided:
    """What a shard holds so far for one label set."""

    labels: dict[int, Mask] = field(default_factory=dict)
    confidences: dict[int, Mask] = field(default_factory=dict)
    facts: list[Facts] = field(default_factory=list)
    failures: list[Facts] = field(default_factory=list)


class ChainReader:
    """Reads what the refinement of a shard's images starts from."""

    def __init__(
        self,
        index: ImageIndex,
        source: ImageSource,
        proposal: StageFolder,
        correlated: StageFolder | None,
        shard: int,
    ) -> None:
        self.index, self.source = index, source
        self.pairs = PairMaps(proposal, shard)
        self.correlated = PairMaps(correlated, shard) if correlated else None

    def values(self, row: int) -> list[int]:
        """What the classes of an image's maps are called in its mask."""
        ids = [pair["class_id"] for pair in self.pairs.by_row.get(row, [])]
        return mask_values(ids, len(self.index.classes))

    def chain(self, row: int, sets: Sequence[LabelSet]) -> Chain | None:
        """The chain of one image; None where a map is not finite. The image is read only if a step looks at it."""
        size = self.index.sizes[row]
        found = self.pairs.by_row.get(row, [])
        if any(pair["flag"] == NONFINITE for pair in found):
            return None
        maps = self.pairs.maps(row, size) if found else torch.zeros(0, *size)
        correlated = self.correlated.maps(row, size) if self.correlated and found else maps
        looks = any(step.step in LOOKS_AT_IMAGE for one in sets for step in one.steps)
        pixels = self.source.pixels(row) if looks else np.zeros((*size, 3), np.uint8)
        classes = torch.tensor(self.values(row), dtype=torch.int64)
        return Chain(pixels, classes, maps, correlated)


def _facts(named: Named, threshold: int, label: Mask, confidence: float) -> Facts:
    pair, value = named
    kept = {name: pair[name] for name in ("row", "image_id", "class", "class_id", "pair", "score", "flag")}
    share = float((label == value).mean())
    return {**kept, "threshold": threshold, "share": share, "confidence": confidence}
