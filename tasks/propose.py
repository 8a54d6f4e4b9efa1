"""Proposals: one recording per batch of images serves every configured method."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs import RunConfig
from configs.proposals import ClassProposal
from configs.refine import ScgStep
from methods.activation.halving import halving
from methods.networks import ClassifierNetwork
from storage.arrays import ArraySpec
from storage.faults import dying_point
from storage.index import ImageIndex, Shard
from storage.stages import FACTS, StageFolder, unit_name
from tasks.context import ShardWork
from tasks.correlate import Correlator
from tasks.findings import Findings
from tasks.images import ImageSource, to_input
from tasks.maps import MapMaker
from tasks.network import as_computed

SCORE = "score"
LOGITS = "logits"


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


@dataclass(frozen=True)
class Product:
    """Soft maps that a pass makes: a proposal's own, or what self-correlation makes of them."""

    proposal: ClassProposal
    folder: StageFolder
    correlated: bool = False


class ProposeWork(ShardWork):
    """Soft maps of every proposal that lacks a shard, from one forward pass and one backward per class rank."""

    title = "propose"

    def __init__(
        self,
        config: RunConfig,
        index: ImageIndex,
        network: ClassifierNetwork,
        source: ImageSource,
        device: torch.device,
        products: list[Product],
        *,
        multi_label: bool,
    ) -> None:
        self.config, self.index, self.source, self.device = config, index, source, device
        self.products, self.multi_label = products, multi_label
        step = config.refine[0]
        self.correlator = Correlator(network, step) if isinstance(step, ScgStep) else None
        also = tuple(self.correlator.layers) if self.correlator else ()
        self.maker = MapMaker(network, compiled=config.runtime.compile, also=also)
        self.fits = config.classifier.batch_size
        self.shards = index.shards(config.runtime.shard_images)
        self.room = pair_capacity(index, config.runtime.shard_images)

    @property
    def folders(self) -> list[StageFolder]:
        """Those of the products."""
        return [one.folder for one in self.products]

    def __call__(self, shard: int) -> None:
        """Compute one shard for the products that lack it."""
        began = time.monotonic()
        unit = unit_name(shard)
        todo = [one for one in self.products if not one.folder.log.path(unit).exists()]
        found = Findings(self.index, multi_label=self.multi_label)
        classifier, left_out = self.config.classifier, self.left_out(shard)
        rows = [row for row in self._bucketed(shard) if row not in left_out]
        for group, images in self.source.batches(rows, classifier.input_size, classifier.batch_size):
            ready = as_computed(to_input(images, classifier.normalise, self.device), self.config.runtime)
            self._group(group, ready, todo, found)
        found.leave_out(list(left_out), {one.folder.name: one.folder.spec(SCORE).item for one in todo})
        dying_point("infer")
        for one in todo:
            self._write(one.folder, self.shards[shard], found, began)

    def _bucketed(self, shard: int) -> list[int]:
        """Rows of a shard by their number of classes: a batch costs as many backward passes as its largest number."""
        return sorted(self.images(shard), key=lambda row: len(self.index.class_ids[row]))

    def _group(self, rows: list[int], images: Tensor, todo: list[Product], found: Findings) -> None:
        """Add what a group of images gives; fewer images at a time from now on where memory runs out."""

        def made(part: slice) -> tuple[list[int], Tensor, dict[str, Tensor]]:
            return rows[part], *self._maps(images[part], found.pairs(rows[part]), todo)

        results, self.fits = halving(made, len(rows), self.fits)
        for members, logits, maps in results:
            found.add(members, logits, maps)

    def _maps(self, images: Tensor, pairs: Tensor, todo: list[Product]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the maps of every product by the name of its folder."""
        proposals = list({one.proposal.title: one.proposal for one in todo}.values())
        seen, maps = self.maker(images, pairs, proposals)
        by_title = dict(zip((one.title for one in proposals), maps))
        wanted = {one.proposal.title for one in todo if one.correlated} if len(pairs) else set()
        spread = self.correlator(seen, {title: by_title[title] for title in wanted}) if self.correlator else {}
        found = {one.folder.name: (spread if one.correlated else by_title).get(one.proposal.title) for one in todo}
        return seen.logits, {name: one for name, one in found.items() if one is not None}

    def _write(self, folder: StageFolder, shard: Shard, found: Findings, began: float) -> None:
        first = shard.number * self.room
        folder.write(
            shard.number,
            arrays={SCORE: (shard.number, found.maps(folder.name, folder.spec(SCORE).item))},
            tables={FACTS: found.pair_table(folder.name, first), LOGITS: found.logit_table()},
            began=began,
            device=str(self.device),
        )
