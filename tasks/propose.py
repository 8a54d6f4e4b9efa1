"""Proposals: one recording per batch of images serves every configured method."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from configs import RunConfig
from configs.proposals import Proposal
from methods.activation import map_flags, min_max, record, soft_maps
from methods.networks import ClassifierNetwork, pooled_features, resolve_layers
from storage.arrays import ArraySpec
from storage.faults import dying_point
from storage.index import ImageIndex, Shard
from storage.stages import FACTS, StageFolder, unit_name
from tasks.context import FolderWork
from tasks.images import ImageSource, to_input

SCORE = "score"
LOGITS = "logits"
PAIRS = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("class", pa.string()),
        ("class_id", pa.int16()),
        ("pair", pa.int64()),
        ("score", pa.float32()),
        ("minimum", pa.float32()),
        ("maximum", pa.float32()),
        ("flag", pa.string()),
    ]
)
LOGIT_ROWS = pa.schema([("row", pa.int64()), ("logits", pa.list_(pa.float32()))])
FEATURE_ROWS = pa.schema([("row", pa.int64()), ("feature", pa.list_(pa.float32()))])


def pair_capacity(index: ImageIndex, size: int) -> int:
    """Pairs that a shard object of soft maps has room for: the most that any shard needs."""
    counts = [sum(len(index.class_ids[row]) for row in index.working_rows(shard)) for shard in index.shards(size)]
    return max(1, *counts)


def begin_proposal(
    folder: StageFolder, basis: dict[str, Any], index: ImageIndex, staged: str, grid: tuple[int, int]
) -> None:
    """Create the soft-map array of one proposal; missing maps read as -1."""
    size = int(basis["shard_images"])
    shards, room = len(index.shards(size)), pair_capacity(index, size)
    score = ArraySpec(name=SCORE, rows=shards * room, item=grid, shard_rows=room, dtype="float16", fill=-1.0)
    folder.begin(basis, shards=shards, classes=index.classes, arrays=[score], index_stage=staged)


def map_grid(network: ClassifierNetwork, layers: list[str], input_size: int, device: torch.device) -> tuple[int, int]:
    """Size of the largest of some layers for the run's input."""
    image = torch.zeros(1, 3, input_size, input_size, device=device)
    names = resolve_layers(network, layers)
    seen = record(network.model, image, torch.tensor([[0, 0]]), names, allow_zero_gradients=True).activations
    height, width = max((tuple(a.shape[-2:]) for a in seen.values()), key=lambda size: size[0] * size[1])
    return height, width


@dataclass
class _Found:
    """What a shard has found so far for one proposal."""

    maps: list[Tensor] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


class ProposeWork:
    """Soft maps of every proposal that lacks a shard, from one forward pass and one backward per class rank."""

    title = "propose"

    def __init__(
        self,
        config: RunConfig,
        index: ImageIndex,
        network: ClassifierNetwork,
        source: ImageSource,
        device: torch.device,
        proposals: list[tuple[Proposal, StageFolder]],
        *,
        multi_label: bool,
    ) -> None:
        self.config, self.index, self.network, self.source, self.device = config, index, network, source, device
        self.proposals, self.multi_label = proposals, multi_label
        self.shards = index.shards(config.runtime.shard_images)
        self.room = pair_capacity(index, config.runtime.shard_images)
        self.layers = {proposal.title: resolve_layers(network, proposal.layers) for proposal, _ in proposals}

    def missing(self) -> list[int]:
        """Shards that at least one proposal lacks."""
        return sorted({shard for _, folder in self.proposals for shard in folder.missing()})

    def __call__(self, shard: int) -> None:
        """Compute one shard for the proposals that lack it."""
        began = time.monotonic()
        unit = unit_name(shard)
        todo = [(one, folder) for one, folder in self.proposals if not folder.log.path(unit).exists()]
        found = {one.title: _Found() for one, _ in todo}
        logits: list[dict[str, Any]] = []
        classifier = self.config.classifier
        rows = self.index.working_rows(self.shards[shard])
        for group, images in self.source.batches(rows, classifier.input_size, classifier.batch_size):
            self._batch(
                group, to_input(images, classifier.normalise, self.device), [one for one, _ in todo], found, logits
            )
        dying_point("infer")
        for one, folder in todo:
            self._write(folder, self.shards[shard], found[one.title], logits, began)

    def _batch(
        self,
        rows: list[int],
        images: Tensor,
        proposals: list[Proposal],
        found: dict[str, _Found],
        logits: list[dict[str, Any]],
    ) -> None:
        pairs = [(place, k - 1) for place, row in enumerate(rows) for k in self.index.class_ids[row]]
        layers = sorted({layer for one in proposals for layer in self.layers[one.title]})
        which = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        # A gradient that is zero everywhere says something about the image (a constant map): it is no fault here.
        seen = record(self.network.model, images, which, layers, allow_zero_gradients=True)
        scores = seen.logits.float().cpu()
        logits += [{"row": row, "logits": scores[place].tolist()} for place, row in enumerate(rows)]
        if not pairs:
            return
        chances = torch.sigmoid(scores) if self.multi_label else torch.softmax(scores, dim=1)
        for one in proposals:
            maps = soft_maps(
                seen,
                one.method,
                self.layers[one.title],
                truncation=one.truncation,
                population=one.population,
                fusion=one.fuse,
            )
            low, high = maps.flatten(1).amin(1).tolist(), maps.flatten(1).amax(1).tolist()
            flags = map_flags(maps)
            found[one.title].maps.append(min_max(maps).to(torch.float16).cpu())
            for number, (place, k) in enumerate(pairs):
                facts = {"row": rows[place], "image_id": self.index.ids[rows[place]], "class": self.index.classes[k]}
                measured = {
                    "score": float(chances[place, k]),
                    "minimum": low[number],
                    "maximum": high[number],
                    "flag": flags[number],
                }
                found[one.title].rows.append({**facts, "class_id": k + 1, **measured})

    def _write(
        self, folder: StageFolder, shard: Shard, found: _Found, logits: list[dict[str, Any]], began: float
    ) -> None:
        first = shard.number * self.room
        for number, row in enumerate(found.rows):
            row["pair"] = first + number
        shape = (0, *folder.spec(SCORE).item)
        maps = torch.cat(found.maps).numpy() if found.maps else np.zeros(shape, np.float16)
        folder.write(
            shard.number,
            arrays={SCORE: (shard.number, maps)},
            tables={
                FACTS: pa.Table.from_pylist(found.rows, PAIRS),
                LOGITS: pa.Table.from_pylist(logits, LOGIT_ROWS),
            },
            began=began,
            device=str(self.device),
        )


class FeatureWork(FolderWork):
    """Features under the head of a frozen classifier, for the images it trains on."""

    title = "features"

    def __init__(
        self,
        config: RunConfig,
        network: ClassifierNetwork,
        source: ImageSource,
        device: torch.device,
        rows: list[int],
        folder: StageFolder,
    ) -> None:
        self.config, self.network, self.source, self.device, self.folder = config, network, source, device, folder
        size = config.runtime.shard_images
        self.groups = [rows[start : start + size] for start in range(0, len(rows), size)]

    def __call__(self, shard: int) -> None:
        """Compute the features of one shard."""
        began = time.monotonic()
        classifier = self.config.classifier
        rows = []
        groups = self.source.batches(self.groups[shard], classifier.input_size, classifier.batch_size)
        for group, images in groups:
            features = pooled_features(self.network, to_input(images, classifier.normalise, self.device)).cpu()
            rows += [{"row": row, "feature": features[place].tolist()} for place, row in enumerate(group)]
        dying_point("infer")
        self.folder.write(
            shard, tables={FACTS: pa.Table.from_pylist(rows, FEATURE_ROWS)}, began=began, device=str(self.device)
        )
