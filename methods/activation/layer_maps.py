"""Maps of many gradient methods on one layer: what they share is computed once, a few pairs at a time, in the cache.

Every map is a sum over channels: of activations with a weight per channel, which is itself a sum over pixels, or of a
product per pixel (Layer-CAM). Methods of positive gradients are the same without truncation and with percentile 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from methods.activation.compiled import compiled_or_plain
from methods.activation.grad_cam_plus_plus import EPSILON as PLUS_PLUS_EPSILON
from methods.activation.truncate import Population, keep_from, thresholds
from methods.activation.xgrad_cam import EPSILON as XGRAD_EPSILON

GradientMethod = Literal["grad_cam", "grad_cam_plus_plus", "layer_cam", "xgrad_cam"]
WEIGHTED = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam")
CHUNK = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Values of a layer taken at once: a handful of such buffers stays in a processor's cache, or fills a GPU."""
_RAW, _POSITIVE = -2, -1


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to make a layer's map; see :class:`methods.activation.Recipe`."""

    method: GradientMethod
    truncation: int | None = None
    population: Population = "channel"

    def canonical(self) -> "Kind":
        """The same maps by the same sums, so that equal maps are equal kinds."""
        if self.truncation is None and self.method in ("grad_cam_plus_plus", "layer_cam"):
            return Kind(self.method, 0)
        return replace(self, population="channel") if not self.truncation else self


class Part(NamedTuple):
    """Which gradients (all, the positive ones, or those from cut number ``cut`` on), and the methods that take them."""

    cut: int
    methods: tuple[str, ...]


@torch.no_grad()
def layer_maps(
    activations: Tensor, gradients: Tensor, rows: Tensor, kinds: Sequence[Kind], *, compiled: bool = False
) -> dict[Kind, Tensor]:
    """Rectified maps of one layer for every pair, of several kinds.

    Parameters
    ----------
    activations
        ``[B, C, h, w]``.
    gradients
        ``[P, C, h, w]``, in any memory format; the activations' is the fast one.
    rows
        Row of ``activations`` of each pair, ``[P]``.
    kinds
        Which maps; kinds that differ in percentile only share a sort.
    compiled
        As in :func:`methods.activation.soft_maps`.

    Returns
    -------
    dict of Kind, Tensor
        ``[P, h, w]``, at least float32, not normalised. A NaN stays a NaN.

    Examples
    --------
    >>> one = torch.tensor([[[[2.0, -4.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
    >>> {kind.method: maps.tolist() for kind, maps in layer_maps(*one, torch.tensor([0]), [Kind("grad_cam")]).items()}
    {'grad_cam': [[[1.0, 0.0]]]}
    """
    pairs, _, height, width = gradients.shape
    populations, parts, columns = _plan([kind.canonical() for kind in kinds])
    made = activations.new_empty(
        (len(columns), pairs, height * width), dtype=torch.promote_types(activations.dtype, torch.float32)
    )
    last = activations.is_contiguous(memory_format=torch.channels_last) and not activations.is_contiguous()
    kernel = compiled_or_plain(_maps) if compiled else _maps
    step = max(1, CHUNK.get(gradients.device.type, CHUNK["cpu"]) // max(1, gradients[:1].numel()))
    order = rows.tolist()
    for start in range(0, pairs, step):
        part = slice(start, start + step)
        cuts = [
            cut
            for population, percentiles in populations.items()
            for cut in thresholds(gradients[part], percentiles, population)
        ]
        chosen = _rows(activations, order[part])
        found = kernel(_flat(chosen, last), _flat(gradients[part], last), cuts, parts, 1 if last else 2)
        made[:, part] = found.transpose(0, 1)
    return {kind: made[columns[kind.canonical()]].view(pairs, height, width) for kind in kinds}


def _plan(kinds: Sequence[Kind]) -> tuple[dict[Population, list[int]], tuple[Part, ...], dict[Kind, int]]:
    """What to sort, what to sum, and where each kind then is: weighted maps first, maps by pixel after them."""
    populations: dict[Population, list[int]] = {}
    for kind in kinds:
        if kind.truncation and kind.truncation not in populations.setdefault(kind.population, []):
            populations[kind.population].append(kind.truncation)
    places = {(p, d): None for p, ds in populations.items() for d in ds}
    numbers: dict[tuple[Population, int | None], int] = {key: number for number, key in enumerate(places)}
    numbers |= {("channel", None): _RAW, ("channel", 0): _POSITIVE}
    members: dict[int, dict[str, Kind]] = {}
    for kind in kinds:
        members.setdefault(numbers[kind.population, kind.truncation], {})[kind.method] = kind
    parts = tuple(Part(cut, tuple(sorted(methods))) for cut, methods in sorted(members.items()))
    inside = [members[part.cut][method] for part in parts for method in part.methods]
    ordered = sorted(inside, key=lambda kind: kind.method not in WEIGHTED)
    return populations, parts, {kind: column for column, kind in enumerate(ordered)}


def _rows(values: Tensor, rows: list[int]) -> Tensor:
    """``values[rows]``, without a copy where the rows follow each other."""
    first = rows[0]
    return values[first : first + len(rows)] if rows == list(range(first, first + len(rows))) else values[rows]


def _flat(values: Tensor, last: bool) -> Tensor:
    """Maps with their pixels in one dimension, ``[p, hw, C]`` with channels last, else ``[p, C, hw]``."""
    return values.permute(0, 2, 3, 1).flatten(1, 2) if last else values.flatten(2)


def _maps(activations: Tensor, gradients: Tensor, cuts: list[Tensor], parts: tuple[Part, ...], space: int) -> Tensor:
    """Maps ``[p, kinds, hw]``; pixels are dimension ``space`` and channels the other of 1 and 2."""
    dtype = torch.promote_types(activations.dtype, torch.float32)
    activations, gradients = activations.to(dtype), gradients.to(dtype)
    total = activations.sum(space, keepdim=True)
    positive = gradients.clamp(min=0)
    weights, maps = [], []
    for cut, methods in parts:
        used = gradients if cut == _RAW else positive
        if cut >= 0:
            used = keep_from(positive, cuts[cut].to(dtype).unsqueeze(space))
        if "grad_cam" in methods:
            weights.append(used.sum(space) / used.shape[space])
        if "grad_cam_plus_plus" in methods:
            weights.append(_plus_plus(used, total).sum(space))
        if "xgrad_cam" in methods or "layer_cam" in methods:
            product = used * activations
            if "xgrad_cam" in methods:
                weights.append(product.sum(space) / (total.squeeze(space) + XGRAD_EPSILON))
            if "layer_cam" in methods:
                maps.append(product.sum(3 - space))
    if weights:
        maps = [*_weighted(activations, weights, space), *maps]
    return torch.stack(maps, 1).clamp(min=0)


def _plus_plus(positive: Tensor, total: Tensor) -> Tensor:
    """Gradients times alpha of Grad-CAM++, divided through by the gradient's square; zero where the gradient is."""
    below = (positive * positive).reciprocal_().mul_(PLUS_PLUS_EPSILON).addcmul_(positive, total).add_(2)
    return positive / below if torch.compiler.is_compiling() else torch.div(positive, below, out=below)


def _weighted(activations: Tensor, weights: list[Tensor], space: int) -> list[Tensor]:
    """Sums over channels with weights, ``[p, hw]`` each."""
    if torch.compiler.is_compiling():
        # A product per weight, not of matrices: the compiler then makes all maps in one pass over the activations.
        return [(activations * one.unsqueeze(space)).sum(3 - space) for one in weights]
    channels_first = activations if space == 2 else activations.transpose(1, 2)
    return list(torch.bmm(torch.stack(weights, 1), channels_first).unbind(1))
