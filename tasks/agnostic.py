"""Soft maps that know no class (attention, decoders) as a proposal like any other: a map per image and label."""

import time
from typing import Any, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from methods.activation import map_flags, min_max
from storage.faults import dying_point
from storage.index import ImageIndex
from storage.stages import FACTS, StageFolder
from tasks.attend import AttentionMaps
from tasks.context import FolderWork
from tasks.findings import PAIRS
from tasks.propose import SCORE
from tasks.refine import PairMaps
from tasks.turns import CPU


class ShardMaps(Protocol):
    """Gives the maps of a shard's images, one each."""

    device: torch.device

    def __call__(self, shard: int, rows: list[int]) -> list[Tensor]:
        """Maps ``(h, w)`` float32, not below 0, in the order of the rows."""


class AgnosticWork(FolderWork):
    """Soft maps of one proposal from maps without classes.

    The map of an image with one label is that label's. Where an image has several, a label gets the image's map where
    ``classes`` (min-max normalised) speaks for it more than for the others, and in proportion less elsewhere: the one
    says where things are, the other which. Where ``classes`` is 0 for all of them nothing is known, and the map is 0.

    Parameters
    ----------
    index
        The image index.
    folder
        Where the proposal goes.
    classes
        A finished proposal that looks at classes.
    maps
        Gives the images' maps.
    always
        In every image, multiply with ``classes`` itself.
    """

    title = "propose"

    def __init__(
        self,
        index: ImageIndex,
        folder: StageFolder,
        classes: StageFolder,
        maps: ShardMaps,
        shard_images: int,
        *,
        always: bool = False,
    ) -> None:
        self.index, self.folder, self.classes, self.maps, self.always = index, folder, classes, maps, always
        self.shards, self.device = index.shards(shard_images), maps.device

    def __call__(self, shard: int) -> None:
        """Compute one shard."""
        began = time.monotonic()
        labelled = [row for row in self.images(shard) if self.index.class_ids[row]]
        left_out = self.left_out(shard)
        rows = [row for row in labelled if row not in left_out]
        known = PairMaps(self.classes, shard)
        facts: list[dict[str, Any]] = []
        stored: list[Tensor] = [torch.zeros(0, *self.folder.spec(SCORE).item)]
        made = dict(zip(rows, self.maps(shard, rows), strict=True))
        for row in labelled:
            maps = self._by_class(made[row], known, row) if row in made else self._nothing(len(known.by_row[row]))
            stored.append(min_max(maps))
            ends = zip(maps.flatten(1).amin(1).tolist(), maps.flatten(1).amax(1).tolist(), map_flags(maps))
            for pair, (minimum, maximum, flag) in zip(known.by_row[row], ends, strict=True):
                facts.append({**pair, "minimum": minimum, "maximum": maximum, "flag": flag})
        dying_point("infer")
        # Pairs lie as they do in ``classes``: by row and class, the same room for a shard.
        self.folder.write(
            shard,
            arrays={SCORE: (shard, torch.cat(stored).to(torch.float16).numpy())},
            tables={FACTS: pa.Table.from_pylist(facts, PAIRS)},
            began=began,
        )

    def _nothing(self, count: int) -> Tensor:
        """Maps of an image that is left out."""
        return torch.full((count, *self.folder.spec(SCORE).item), torch.nan)

    def _by_class(self, one: Tensor, known: PairMaps, row: int) -> Tensor:
        pairs = known.by_row[row]
        if len(pairs) == 1 and not self.always:
            return one[None]
        height, width = one.shape
        told = known.maps(row, (height, width))
        return one * told if self.always else one * told / told.amax(dim=0).clamp(min=1e-6)


class HeadMaps:
    """Maps of one head of the transformer, from the stored attention."""

    device = CPU

    def __init__(self, attended: StageFolder, head: int) -> None:
        self.attended, self.head = attended, head

    def __call__(self, shard: int, rows: list[int]) -> list[Tensor]:
        """See :class:`ShardMaps`."""
        maps = AttentionMaps(self.attended, shard)
        return [maps.head(row, self.head) for row in rows]
