"""Self-correlation of second order inside of the matrix that becomes the result.

Similarities S are symmetric, and so is S D S with a diagonal D. One triangle of blocks holds the first while the other
is filled with the second: together no more than the result, and half of the multiplications.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import threshold


class Orders(NamedTuple):
    """What both orders are cut and normalised by.

    ``first_cut`` and ``second_cut`` are the largest values that become 0, of similarities and of columns of the second
    order.
    """

    first_cut: float
    second_cut: float
    second_weight: float
    epsilon: float
    sum_epsilon: float


def correlate_in_place(flat: Tensor, orders: Orders, step: int, out: Tensor) -> None:
    """Self-correlation of one image's unit features, as :func:`methods.refinement.self_correlation` has it.

    Parameters
    ----------
    flat
        ``[C, N]``, columns of length 1.
    orders
        Bounds and guards.
    step
        Columns of a block: beside the result a matrix of N times two of them is held.
    out
        ``[N, N]`` to write to.

    Examples
    --------
    >>> found = torch.empty(3, 3)
    >>> correlate_in_place(torch.eye(3), Orders(0.5, 0.0, 1.0, 1e-10, 1e-10), 2, found)
    >>> found.tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    places = flat.shape[1]
    blocks = [slice(start, min(start + step, places)) for start in range(0, places, step)]
    itself, sums = _similarities(flat, blocks, orders.first_cut, out)
    transfer = 1 / (sums + orders.epsilon)
    diagonals, totals = _second_order(blocks, transfer, out)
    # Both orders' factors by column; the second is S D S D with normalised columns.
    first = 1 / (sums + itself + orders.epsilon)
    second = transfer / (transfer * totals + orders.sum_epsilon)

    def joint(direct: Tensor, indirect: Tensor, columns: slice) -> Tensor:
        higher = threshold(indirect * second[columns], orders.second_cut, 0.0, inplace=True)
        return torch.maximum(higher.mul_(orders.second_weight), direct * first[columns])

    for one, other in _pairs(blocks):
        upper = out[one, other]
        if one == other:
            upper.diagonal().copy_(itself[one])
            upper.copy_(joint(upper, diagonals[one.start // step, : len(upper), : len(upper)], one))
            continue
        lower = out[other, one]
        above, below = joint(upper, lower.T, other), joint(upper.T, lower, one)
        upper.copy_(above)
        lower.copy_(below)
    out.div_(out.sum(0).add_(orders.sum_epsilon))


def _pairs(blocks: list[slice]) -> Iterator[tuple[slice, slice]]:
    """Blocks of the upper triangle, row by row."""
    return ((one, other) for place, one in enumerate(blocks) for other in blocks[place:])


def _similarities(flat: Tensor, blocks: list[slice], cut: float, out: Tensor) -> tuple[Tensor, Tensor]:
    """Write the upper blocks, diagonal 0; what was on the diagonal, and the sums of columns without it."""
    itself, sums = (flat.new_zeros(flat.shape[1]) for _ in range(2))
    for one, other in _pairs(blocks):
        part = torch.mm(flat[:, one].T, flat[:, other], out=out[one, other])
        threshold(part, cut, 0.0, inplace=True)
        if one == other:
            itself[one] = part.diagonal()
            part.diagonal().zero_()
        else:
            sums[one] += part.sum(1)
        sums[other] += part.sum(0)
    return itself, sums


def _second_order(blocks: list[slice], transfer: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Write S D S into the lower blocks, from S in the upper ones; its blocks on the diagonal, and its column sums."""
    width = blocks[0].stop
    diagonals = out.new_empty(len(blocks), width, width)
    panels = out.new_empty(len(out), width)
    sums = torch.zeros_like(transfer)
    for place, one in enumerate(blocks):
        # All rows of these columns: above the diagonal as they are, below it by symmetry.
        panel = panels[:, : one.stop - one.start]
        panel[: one.start] = out[: one.start, one]
        panel[one.start :] = out[one, one.start :].T
        panel.mul_(transfer[:, None])
        for other in blocks[place:]:
            part = diagonals[place, : panel.shape[1], : panel.shape[1]] if other == one else out[other, one]
            torch.mm(out[other, other.start :], panel[other.start :], out=part)
            part.addmm_(out[: other.start, other].T, panel[: other.start])
            sums[one] += part.sum(0)
            if other != one:
                sums[other] += part.sum(1)
    return diagonals, sums
