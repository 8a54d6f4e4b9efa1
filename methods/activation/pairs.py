"""Pairs (image row, class): which maps to make, and their gradients from as few backward passes as possible."""

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.activation.errors import (
    GradientReachError,
    LogitsError,
    PairError,
    RecordingError,
    UnknownLayerError,
)


def check_request(images: Tensor, pairs: Tensor, layers: Sequence[str]) -> None:
    """Refuse before any work: images that are no batch, no layer, pairs that are not integers [P, 2] in its rows."""
    if images.ndim != 4:
        raise RecordingError(f"expected images [B, 3, H, W], got shape {tuple(images.shape)}")
    if isinstance(layers, str) or not layers:
        raise UnknownLayerError(f"expected a list of at least one layer name, got {layers!r}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise PairError(f"expected pairs [P, 2] of (image row, class), got shape {tuple(pairs.shape)}")
    if pairs.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise PairError(f"expected integer pairs, got {pairs.dtype}")
    _refuse_outside(pairs, 0, len(images), "image row")


def check_logits(logits: object, pairs: Tensor, images: int) -> Tensor:
    """Refuse a network output that is not [B, K] or has no logit for a pair's class."""
    if not isinstance(logits, Tensor):
        raise LogitsError(f"the network returns {type(logits).__name__}, expected one tensor of logits [B, K]")
    if logits.ndim != 2 or logits.shape[0] != images or logits.shape[1] == 0:
        raise LogitsError(f"the network returns shape {tuple(logits.shape)}, expected logits [B, K] with B={images}")
    _refuse_outside(pairs, 1, logits.shape[1], "class")
    return logits


def _refuse_outside(pairs: Tensor, column: int, size: int, what: str) -> None:
    outside = (pairs[:, column] < 0) | (pairs[:, column] >= size)
    if outside.any():
        place = int(outside.nonzero()[0])
        raise PairError(f"pair {place} is {tuple(pairs[place].tolist())}: its {what} is outside of 0..{size - 1}")


def class_ranks(pairs: Tensor) -> Tensor:
    """How often each pair's image row came before it, [P]: pairs of one rank share a backward pass.

    Examples
    --------
    >>> class_ranks(torch.tensor([[0, 7], [1, 2], [0, 3], [0, 9]])).tolist()
    [0, 0, 1, 2]
    """
    seen: dict[int, int] = {}
    ranks = []
    for row in pairs[:, 0].tolist():
        ranks.append(seen.get(row, 0))
        seen[row] = ranks[-1] + 1
    return torch.tensor(ranks, dtype=torch.int64, device=pairs.device)


def pair_gradients(logits: Tensor, pairs: Tensor, sources: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Gradients of every pair's own logit with respect to every source, one backward pass per class rank.

    The logits of one rank are summed: in evaluation mode an image's logit does not depend on another image.

    Parameters
    ----------
    logits
        ``[B, K]``, the end of the graph, which is freed here.
    pairs
        ``[P, 2]`` on the device of the logits, in any order.
    sources
        Tensors ``[B, ...]`` inside of the graph.
    names
        What to call each source in an error.

    Returns
    -------
    list of Tensor
        One ``[P, ...]`` per source.

    Raises
    ------
    GradientReachError
        The logits do not depend on a source.
    """
    if not logits.requires_grad:
        raise GradientReachError(f"the logits have no graph back to {list(names)}: the network detaches its features")
    ranks = class_ranks(pairs)
    passes = int(ranks.max()) + 1 if len(pairs) else 0
    gathered: list[Tensor] = [_empty_rows(source, len(pairs)) for source in sources] if passes != 1 else []
    for rank in range(passes):
        members = (ranks == rank).nonzero().squeeze(1)
        rows, classes = pairs[members].unbind(1)
        found = torch.autograd.grad(
            logits[rows, classes].sum(), sources, retain_graph=rank + 1 < passes, allow_unused=True
        )
        unreached = [name for name, gradient in zip(names, found, strict=True) if gradient is None]
        if unreached:
            raise GradientReachError(f"the logits do not depend on layer(s) {unreached}: their maps would be all zero")
        if passes == 1:
            return [select_rows(gradient, rows) for gradient in found]
        # Row by row: an index on each side would copy everything twice.
        for place, row in zip(members.tolist(), rows.tolist(), strict=True):
            for target, gradient in zip(gathered, found, strict=True):
                target[place].copy_(gradient[row])
        # Their memory serves the next pass.
        del found, gradient
    return gathered


def select_rows(values: Tensor, rows: Tensor) -> Tensor:
    """``values[rows]``, without a copy where that is all rows in order."""
    if len(rows) == len(values) and torch.equal(rows, torch.arange(len(values), device=rows.device)):
        return values
    return values[rows]


def _empty_rows(source: Tensor, rows: int) -> Tensor:
    """Room for ``rows`` gradients like the source's rows, in its memory format."""
    last = source.ndim == 4 and source.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty((rows, *source.shape[1:]), dtype=source.dtype, device=source.device, memory_format=layout)
