"""Attention of every image: maps of the transformer's heads, which know no class."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from configs import RunConfig
from configs.transformer import Transformer
from methods.activation import map_flags
from methods.activation.halving import halving
from methods.proposals import cls_attention, token_attention
from storage.arrays import ArraySpec
from storage.faults import dying_point
from storage.index import ImageIndex
from storage.stages import FACTS, StageFolder
from tasks.context import FolderWork
from tasks.images import ImageSource, to_input

ATTENTION = "attention"
MEAN, BLOCKS = -1, -2
HEADS = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("head", pa.int16()),
        ("place", pa.int64()),
        ("minimum", pa.float32()),
        ("maximum", pa.float32()),
        ("flag", pa.string()),
    ]
)
"""A row per map; ``head`` of the last block from 0, -1 their mean, -2 the mean over the heads of all blocks. Maps are
stored divided by their ``maximum``."""


def begin_attention(folder: StageFolder, basis: dict[str, Any], index: ImageIndex, staged: str, probe: Tensor) -> None:
    """Create the array of attention; ``probe`` are the maps of one image, ``[1, maps, h, w]``."""
    size = int(basis["shard_images"])
    shards, room = len(index.shards(size)), size * probe.shape[1]
    grid = (probe.shape[2], probe.shape[3])
    maps = ArraySpec(name=ATTENTION, rows=shards * room, item=grid, shard_rows=room, dtype="float16", fill=-1.0)
    folder.begin(basis, shards=shards, classes=index.classes, arrays=[maps], index_stage=staged)


def attention_grid(attended: StageFolder) -> tuple[int, int]:
    """Rows and columns of the stored attention."""
    height, width = attended.spec(ATTENTION).item
    return height, width


def attention_maps(vit: VisionTransformer, images: Tensor, *, blocks: bool) -> Tensor:
    """Mean of the last block's heads, then each head, ``[B, 1 + heads, h, w]``; with ``blocks`` first that of all."""
    with torch.no_grad():
        heads = cls_attention(vit, images).float()
        first = [token_attention(vit, images).float()[:, None]] if blocks else []
    return torch.cat([*first, heads.mean(dim=1, keepdim=True), heads], dim=1).cpu()


class AttendWork(FolderWork):
    """Attention of one shard after the other; with ``blocks`` also the mean of all blocks, by a second pass."""

    title = "attend"

    def __init__(
        self,
        config: RunConfig,
        transformer: Transformer,
        index: ImageIndex,
        vit: VisionTransformer,
        source: ImageSource,
        device: torch.device,
        folder: StageFolder,
        *,
        blocks: bool,
    ) -> None:
        self.transformer, self.index, self.vit, self.blocks = transformer, index, vit, blocks
        self.source, self.device, self.folder = source, device, folder
        self.precision = getattr(torch, config.runtime.precision)
        self.shard_images = config.runtime.shard_images
        self.shards = index.shards(self.shard_images)
        self.fits = transformer.batch_size

    def __call__(self, shard: int) -> None:
        """Compute one shard."""
        began = time.monotonic()
        found: dict[int, Tensor] = {}
        left_out, transformer = self.left_out(shard), self.transformer
        rows = [row for row in self.images(shard) if row not in left_out]
        for group, images in self.source.batches(rows, transformer.input_size, transformer.batch_size):
            parts, self.fits = halving(self._heads(images), len(group), self.fits)
            found.update(zip(group, torch.cat(parts), strict=True))
        spec = self.folder.spec(ATTENTION)
        for row in left_out:
            found[row] = torch.full((spec.shard_rows // self.shard_images, *spec.item), torch.nan)
        dying_point("infer")
        self._write(shard, sorted(found), found, began)

    def _heads(self, images: Tensor) -> Callable[[slice], Tensor]:
        ready = to_input(images, self.transformer.normalise, self.device).to(self.precision)
        return lambda part: attention_maps(self.vit, ready[part], blocks=self.blocks)

    def _write(self, shard: int, rows: list[int], found: dict[int, Tensor], began: float) -> None:
        spec = self.folder.spec(ATTENTION)
        stored: list[Tensor] = [torch.zeros(0, *spec.item)]
        facts: list[dict[str, Any]] = []
        for row in rows:
            maps = found[row]
            low, high = maps.amin((1, 2)), maps.amax((1, 2))
            stored.append(maps / high[:, None, None].clamp(min=1e-12))
            named = {"row": row, "image_id": self.index.ids[row]}
            ends = zip(low.tolist(), high.tolist(), map_flags(maps))
            for head, (minimum, maximum, flag) in enumerate(ends, BLOCKS if self.blocks else MEAN):
                place = shard * spec.shard_rows + len(facts)
                span = {"minimum": minimum, "maximum": maximum, "flag": flag}
                facts.append({**named, "head": head, "place": place, **span})
        self.folder.write(
            shard,
            arrays={ATTENTION: (shard, torch.cat(stored).to(torch.float16).numpy())},
            tables={FACTS: pa.Table.from_pylist(facts, HEADS)},
            began=began,
            device=str(self.device),
        )


class AttentionPlaces:
    """Where every map of a finished stage lies."""

    def __init__(self, folder: StageFolder) -> None:
        self._room = folder.spec(ATTENTION).shard_rows
        facts = folder.table(FACTS, ["row", "head", "place"]).to_pylist()
        self._places = {(fact["row"], fact["head"]): fact["place"] for fact in facts}

    def of(self, row: int, head: int) -> tuple[int, int]:
        """Place in the array of an image's head, -1 the mean, and the shard it belongs to."""
        place = self._places[row, head]
        return place, place // self._room


class AttentionMaps:
    """Stored attention of one shard by image row."""

    def __init__(self, folder: StageFolder, shard: int) -> None:
        spec = folder.spec(ATTENTION)
        first = shard * spec.shard_rows
        self._stored = folder.rows(ATTENTION, shard, first, first + spec.shard_rows)
        self._places: dict[int, dict[int, int]] = {}
        for fact in folder.shard_table(shard).to_pylist():
            self._places.setdefault(fact["row"], {})[fact["head"]] = fact["place"] - first

    def maps(self, row: int) -> Tensor:
        """Mean and heads of one image's last block, ``(1 + heads, h, w)`` float32, each with a maximum of 1."""
        places = [place for head, place in self._places[row].items() if head >= MEAN]
        return torch.from_numpy(self._stored[places].astype(np.float32))

    def head(self, row: int, head: int) -> Tensor:
        """One map, ``(h, w)``: a head, :data:`MEAN` or :data:`BLOCKS`.

        Raises
        ------
        ValueError
            The transformer has no such head.
        """
        places = self._places[row]
        if head not in places:
            raise ValueError(f"proposals: head: expected mean or 0 to {max(places)}, saw {head}")
        return torch.from_numpy(self._stored[places[head]].astype(np.float32))
