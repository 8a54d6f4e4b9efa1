"""What the networks' passes over one shard have found: maps and facts of its pairs, in the order of the index."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from methods.activation import map_flags, min_max
from storage.index import ImageIndex

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


class Findings:
    """Collects batches, which may come in any order; each of several products has a map per (image, class) pair.

    Parameters
    ----------
    index
        The image index.
    multi_label
        Whether a class's score is a sigmoid or a share of a softmax.
    """

    def __init__(self, index: ImageIndex, *, multi_label: bool) -> None:
        self._index, self._multi_label = index, multi_label
        self._logits: dict[int, Tensor] = {}
        self._maps: dict[str, dict[tuple[int, int], Tensor]] = {}
        self._facts: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}

    def pairs(self, rows: list[int]) -> Tensor:
        """Pairs ``[P, 2]`` of (place in ``rows``, class from 0) for a recording of these images."""
        pairs = [(place, k - 1) for place, row in enumerate(rows) for k in self._index.class_ids[row]]
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)

    def add(self, rows: list[int], logits: Tensor, made: dict[str, Tensor]) -> None:
        """Take a batch's logits ``[B, K]``, and by product the raw maps ``[P, h, w]`` of :meth:`pairs`."""
        logits = logits.float().cpu()
        self._logits |= dict(zip(rows, logits, strict=True))
        chances = torch.sigmoid(logits) if self._multi_label else torch.softmax(logits, dim=1)
        keys = [(rows[place], k) for place, k in self.pairs(rows).tolist()]
        scores = [float(chances[place, k]) for place, k in self.pairs(rows).tolist()]
        for product, maps in made.items():
            stored = min_max(maps).to(torch.float16).cpu()
            self._maps.setdefault(product, {}).update(zip(keys, stored, strict=True))
            measured = zip(scores, maps.flatten(1).amin(1).tolist(), maps.flatten(1).amax(1).tolist(), map_flags(maps))
            facts = [dict(zip(("score", "minimum", "maximum", "flag"), one)) for one in measured]
            self._facts.setdefault(product, {}).update(zip(keys, facts, strict=True))

    def leave_out(self, rows: list[int], products: dict[str, tuple[int, ...]]) -> None:
        """Give images that were not looked at maps that are not finite, by product and its grid; no logits."""
        keys = [(row, k - 1) for row in rows for k in self._index.class_ids[row]]
        unknown = {"score": np.nan, "minimum": np.nan, "maximum": np.nan, "flag": "nonfinite"}
        for product, grid in products.items():
            nothing = torch.full(grid, torch.nan, dtype=torch.float16)
            self._maps.setdefault(product, {}).update(dict.fromkeys(keys, nothing))
            self._facts.setdefault(product, {}).update(dict.fromkeys(keys, unknown))

    def maps(self, product: str, grid: tuple[int, ...]) -> npt.NDArray[np.float16]:
        """Min-max normalised maps ``[P, *grid]`` of all pairs, by row and class."""
        found = self._maps.get(product, {})
        return torch.stack([found[key] for key in sorted(found)]).numpy() if found else np.zeros((0, *grid), np.float16)

    def pair_table(self, product: str, first: int) -> pa.Table:
        """A row per pair in the order of :meth:`maps`; ``first`` is the place of the first one in the stored array."""
        facts = self._facts.get(product, {})
        rows = [
            {
                "row": row,
                "image_id": self._index.ids[row],
                "class": self._index.classes[k],
                "class_id": k + 1,
                "pair": first + number,
                **facts[row, k],
            }
            for number, (row, k) in enumerate(sorted(facts))
        ]
        return pa.Table.from_pylist(rows, PAIRS)

    def logit_table(self) -> pa.Table:
        """A row per image."""
        rows = [{"row": row, "logits": self._logits[row].tolist()} for row in sorted(self._logits)]
        return pa.Table.from_pylist(rows, LOGIT_ROWS)
