"""Affinity loss: pixels that belong together have no edge between them, others have one."""

from typing import NamedTuple

import torch
from torch import Tensor

from methods.training.affinity_labels import RADIUS, PairLabels, source_grid, ways

SMALL = 1e-5


class AffinityLosses(NamedTuple):
    """The terms, scalars with a graph; 0 where there is no such pair."""

    background: Tensor
    """Pairs of background."""
    foreground: Tensor
    """Pairs of one class."""
    different: Tensor
    """Pairs of two classes."""

    def total(self) -> Tensor:
        """Pairs that belong together and pairs that do not count half each."""
        return ((self.background + self.foreground) / 2 + self.different) / 2


def affinity_loss(affinities: Tensor, labels: PairLabels) -> AffinityLosses:
    r"""Losses of the affinities of pairs.

    .. math:: L = \tfrac12 \Big(\tfrac12 \big(\overline{-\log(a + \epsilon)}_{bg} + \overline{-\log(a + \epsilon)}_{fg}
        \big) + \overline{-\log(1 + \epsilon - a)}_{different}\Big), \qquad \epsilon = 10^{-5}

    with means over the pairs of a kind, in all images of the batch together.

    Parameters
    ----------
    affinities
        :func:`pair_affinities` of a network's edges, ``[B, O, n]`` in 0..1.
    labels
        :func:`~methods.training.affinity_labels.pair_labels` of the same radius and grid.

    Returns
    -------
    AffinityLosses
        The terms, at least float32; :meth:`AffinityLosses.total` is the published loss.

    Raises
    ------
    ValueError
        Shapes differ.

    References
    ----------
    Ahn et al., Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations, CVPR 2019.

    Examples
    --------
    >>> from methods.training.affinity_labels import pair_labels
    >>> pairs = pair_labels(torch.tensor([[[0, 0, 1], [0, 1, 1]]]), radius=2)
    >>> affinities = pair_affinities(torch.full((1, 1, 2, 3), 0.5), radius=2)
    >>> [round(term.item(), 3) for term in affinity_loss(affinities, pairs)]
    [0.693, 0.0, 0.693]
    """
    if any(one.shape != affinities.shape for one in labels):
        shapes = ", ".join(str(tuple(one.shape)) for one in labels)
        raise ValueError(f"expected labels of the shape of the affinities, {tuple(affinities.shape)}, got {shapes}")
    exact = affinities.to(torch.promote_types(affinities.dtype, torch.float32))
    together, apart = -(exact + SMALL).log(), -(1 + SMALL - exact).log()
    return AffinityLosses(
        _mean(together, labels.background), _mean(together, labels.foreground), _mean(apart, labels.different)
    )


def pair_affinities(edges: Tensor, radius: int = RADIUS) -> Tensor:
    r"""One minus the strongest edge on the way between the pixels of each pair.

    .. math:: a_{ij} = 1 - \max_{p \in \text{path}(i, j)} e_p

    Parameters
    ----------
    edges
        How much of an edge each pixel is, ``[B, 1, h, w]`` in 0..1.
    radius
        Pixels less than this apart are pairs.

    Returns
    -------
    Tensor
        ``[B, O, n]``, as :func:`~methods.training.affinity_labels.pair_labels` orders pairs. Its gradient reaches the
        strongest pixel of each way, one of them where several are as strong. Edges that are NaN win.

    Raises
    ------
    ValueError
        Another shape.
    PairGridError
        A grid without a source.

    Examples
    --------
    >>> pair_affinities(torch.tensor([[[[0.0, 0.25, 0.5], [1.0, 0.0, 0.0]]]]), radius=2).tolist()
    [[[0.5], [0.75], [0.0], [0.5]]]
    """
    if edges.ndim != 4 or edges.shape[1] != 1:
        raise ValueError(f"expected edges [B, 1, h, w], got shape {tuple(edges.shape)}")
    height, width = edges.shape[2:]
    rows, columns = source_grid(height, width, radius)
    # The ranks of an image's pixels are compared instead of their values, outside of the graph: the backward pass is
    # one scatter then, where a maximum over the places of every way would keep and revisit them all.
    values, order = edges.flatten(1).sort(dim=1, stable=True)
    ranks = order.argsort(dim=1).to(torch.int32).view(len(edges), height, width)
    highest = _highest_ranks(ranks, rows, columns, radius)
    return 1 - values.gather(1, highest.flatten(1).long()).view(highest.flatten(2).shape)


def _highest_ranks(ranks: Tensor, rows: slice, columns: slice, radius: int) -> Tensor:
    """Highest rank on each way of each source, ``[B, O, rows, columns]``."""
    count, width = rows.stop - rows.start, columns.stop - columns.start
    # A way has one run of neighbours in each of its rows: highest ranks of runs by length, from their first pixel.
    runs = [ranks]
    for length in range(2, 2 * radius):
        runs.append(torch.maximum(runs[-1][..., :-1], ranks[..., length - 1 :]))
    every = ways(radius)
    highest = ranks.new_zeros(len(ranks), len(every), count, width)
    for way, found in zip(every, highest.unbind(1), strict=True):
        for y in range(way.end[0] + 1):
            run = [x for row, x in way.places if row == y]
            left = columns.start + min(run)
            torch.maximum(found, runs[len(run) - 1][:, y : y + count, left : left + width], out=found)
    return highest


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
