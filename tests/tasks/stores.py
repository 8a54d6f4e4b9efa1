"""Small stores of maps, attention and boxes, written by hand in place of networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from methods.activation import map_flags, min_max
from storage.index import ImageIndex
from storage.stages import FACTS, StageFolder
from tasks.attend import ATTENTION, HEADS, MEAN, begin_attention
from tasks.findings import PAIRS
from tasks.propose import SCORE, begin_proposal, pair_capacity
from tasks.regions import REGIONS
from tasks.turns import CPU

STAGED = "stage-aaaaaaaaaaaa"


def write_proposal(
    folder: Path, index: ImageIndex, maps: Mapping[tuple[int, int], Tensor], size: int, **basis: Any
) -> StageFolder:
    """A finished proposal; ``maps`` ``(h, w)`` by row and class id, zeros where it has none."""
    grid = next(iter(maps.values())).shape
    made = StageFolder(folder)
    begin_proposal(made, {"shard_images": size, **basis}, index, STAGED, (grid[0], grid[1]))
    room = pair_capacity(index, size)
    for shard in index.shards(size):
        keys = [(row, k) for row in index.working_rows(shard) for k in index.class_ids[row]]
        raw = torch.stack([maps.get(key, torch.zeros(grid)) for key in keys]) if keys else torch.zeros(0, *grid)
        facts = [
            {
                "row": row,
                "image_id": index.ids[row],
                "class": index.classes[k - 1],
                "class_id": k,
                "pair": shard.number * room + place,
                "score": 0.5,
                "minimum": float(one.min()),
                "maximum": float(one.max()),
                "flag": flag,
            }
            for place, ((row, k), one, flag) in enumerate(zip(keys, raw, map_flags(raw), strict=True))
        ]
        stored = min_max(raw).to(torch.float16).numpy()
        tables = {FACTS: pa.Table.from_pylist(facts, PAIRS)}
        made.write(shard.number, arrays={SCORE: (shard.number, stored)}, tables=tables)
    return made


def write_attention(folder: Path, index: ImageIndex, maps: Mapping[int, Tensor], size: int) -> StageFolder:
    """Finished attention; ``maps`` ``(1 + heads, h, w)`` by row, the mean first, each with a maximum of 1."""
    made = StageFolder(folder)
    begin_attention(made, {"shard_images": size}, index, STAGED, next(iter(maps.values()))[None])
    for shard in index.shards(size):
        facts: list[dict[str, Any]] = []
        stored = []
        for row in index.working_rows(shard):
            for head, one in enumerate(maps[row], MEAN):
                place = shard.number * made.spec(ATTENTION).shard_rows + len(facts)
                span = {"minimum": float(one.min()), "maximum": 1.0, "flag": ""}
                facts.append({"row": row, "image_id": index.ids[row], "head": head, "place": place, **span})
                stored.append(one)
        arrays = {ATTENTION: (shard.number, torch.stack(stored).to(torch.float16).numpy())}
        made.write(shard.number, arrays=arrays, tables={FACTS: pa.Table.from_pylist(facts, HEADS)})
    return made


def write_regions(folder: Path, index: ImageIndex, boxes: list[dict[str, Any]], size: int) -> StageFolder:
    """Finished boxes: ``row``, ``class_id``, ``head``, ``side``, ``x0`` … ``y1``, ``rank`` of each."""
    made = StageFolder(folder)
    shards = index.shards(size)
    made.begin({"shard_images": size}, shards=len(shards), classes=index.classes, index_stage=STAGED)
    rest = {"area": 0.5, "score": 0.5, "fallback": False}
    for shard in shards:
        facts = [{**rest, "image_id": index.ids[box["row"]], **box} for box in boxes if box["row"] in shard.rows]
        made.write(shard.number, tables={FACTS: pa.Table.from_pylist(facts, REGIONS)})
    return made


class KnownMaps:
    """Maps of a shard's images that are given by row; see :class:`tasks.agnostic.ShardMaps`."""

    device = CPU

    def __init__(self, by_row: dict[int, Tensor]) -> None:
        self.by_row = by_row

    def __call__(self, shard: int, rows: list[int]) -> list[Tensor]:  # noqa: ARG002
        return [self.by_row[row] for row in rows]
