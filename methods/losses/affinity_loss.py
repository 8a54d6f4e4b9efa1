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
        strongest pixel of each way, one of them where several are as strong.

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
    found = [edges.new_ones(len(edges), 0, (rows.stop - rows.start) * (columns.stop - columns.start))]
    for way in ways(radius):
        # max remembers one index a pair; a chain of maximum would keep every value on the way for the backward pass.
        places = torch.stack(
            [edges[:, 0, rows.start + y : rows.stop + y, columns.start + x : columns.stop + x] for y, x in way.places]
        )
        found.append(1 - places.max(dim=0).values.flatten(1)[:, None])
    return torch.cat(found, dim=1)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
