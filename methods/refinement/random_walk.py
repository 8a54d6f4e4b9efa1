"""Random walk: spread maps over a coarse grid as far as no edge is in the way."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import pad

from methods.refinement.checks import require_finite

DENSE_LIMIT = 2**22
MOST = 20
SPARSE_COST = 15
"""How much longer a multiplication takes in a sparse matrix than in a dense one (measured, one core)."""


@dataclass(frozen=True)
class Path:
    """The places that lie on the way to a neighbour, both ends included, relative to its start as (y, x)."""

    end: tuple[int, int]
    places: tuple[tuple[int, int], ...]


def random_walk(
    maps: Tensor,
    edges: Tensor,
    *,
    radius: int = 5,
    beta: float = 10,
    log2_steps: int = 8,
    dense_limit: int = DENSE_LIMIT,
) -> Tensor:
    r"""Walk ``2 ** log2_steps`` steps from every place to neighbours without an edge between.

    .. math:: M' = \big(M \odot (1 - e)\big)\, T^{2^t}, \qquad T_{ij} = \frac{a_{ij}^\beta}{\sum_i a_{ij}^\beta}, \qquad
        a_{ij} = 1 - \max_{p \in \text{path}(i, j)} e_p, \quad a_{ii} = 1

    for places i, j nearer than ``radius``; others have no affinity.

    Parameters
    ----------
    maps
        ``[K, h, w]``, the maps of an image at the size of the edges (a quarter of the image's, usually).
    edges
        ``[h, w]``, how much of an edge each place is, in 0..1.
    radius
        Places less than this apart are neighbours; 1 and more.
    beta
        Exponent of the affinities, above 0: larger is stricter.
    log2_steps
        t, how often the matrix of transitions is squared, 0 to 20.
    dense_limit
        The matrix is squared where :math:`(hw)^2` is at most this, which takes 16 bytes an element, and where that is
        the faster way: small grids with many maps or steps. Elsewhere the maps are multiplied with the sparse matrix,
        step by step: the same result to 1e-5, within about :math:`200 r^2 hw` bytes (80 MB for a 128 x 128 grid, whose
        dense matrix of doubles would have 2 GB).

    Returns
    -------
    Tensor
        ``[K, h, w]`` float32, inside of the range of each map times (1 - edges). Enlarging, cropping and dividing by
        the maximum are left to the caller.

    Raises
    ------
    ValueError
        Shapes that do not agree, values that are not finite, edges outside of 0..1, or options out of range.

    References
    ----------
    Ahn et al., Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations, CVPR 2019.

    Examples
    --------
    >>> walked = random_walk(torch.tensor([[[1.0, 0, 0, 0, 0]]]), torch.tensor([[0, 0, 1.0, 0, 0]]))
    >>> [round(value, 3) for value in walked.flatten().tolist()]
    [0.5, 0.5, 0.0, 0.0, 0.0]
    """
    _check(maps, edges, radius, beta, log2_steps)
    start = (maps.detach() * (1 - edges.detach())).flatten(1).to("cpu", torch.float64).T.contiguous()
    if start.numel() == 0:
        return torch.empty_like(maps, dtype=torch.float32)
    # The affinities are symmetric: rows that sum to 1, applied from the left, do what columns do from the right.
    steps = _transitions(path_affinities(edges.detach().to("cpu", torch.float64), radius) ** beta, radius)
    squaring, walking = log2_steps * edges.numel() ** 3, 2**log2_steps * steps.nnz * len(maps)
    if edges.numel() ** 2 <= dense_limit and squaring < SPARSE_COST * walking:
        dense = torch.from_numpy(steps.toarray())
        for _ in range(log2_steps):
            dense = dense @ dense
        walked = dense @ start
    else:
        places = start.numpy()
        for _ in range(2**log2_steps):
            places = steps @ places
        walked = torch.from_numpy(places)
    return walked.T.reshape(maps.shape).to(maps.device, torch.float32)


def paths(radius: int) -> list[Path]:
    """The ways to one half of the neighbours less than ``radius`` apart: below, and to the right in the same row.

    A place is on the way if it is in the rectangle between the ends and less than 1 from the line through them.

    Examples
    --------
    >>> [path.end for path in paths(2)]
    [(0, 1), (1, -1), (1, 0), (1, 1)]
    >>> paths(3)[0]
    Path(end=(0, 1), places=((0, 0), (0, 1)))
    """
    ends = [
        (y, x) for y in range(radius) for x in range(1 - radius, radius) if (y or x > 0) and y * y + x * x < radius**2
    ]
    return [Path(end, _places(*end)) for end in ends]


def path_affinities(edges: Tensor, radius: int) -> Tensor:
    """One minus the strongest edge on each path, ``[len(paths(radius)), h, w]`` by the start of the path.

    Paths that leave the image cross an edge of 1 there.

    Examples
    --------
    >>> path_affinities(torch.tensor([[0.0, 0.25, 0.75]]), 2)[0].tolist()
    [[0.75, 0.25, 0.0]]
    """
    height, width = edges.shape
    reach = radius - 1
    around = pad(edges, (reach, reach, 0, reach), value=1)
    found = edges.new_zeros(len(paths(radius)), height, width)
    for path, strongest in zip(paths(radius), found):
        for y, x in path.places:
            torch.maximum(strongest, around[y : y + height, reach + x : reach + x + width], out=strongest)
    return 1 - found


def _places(dy: int, dx: int) -> tuple[tuple[int, int], ...]:
    rows, columns = range(dy + 1), range(min(0, dx), max(0, dx) + 1)
    return tuple((y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)


def _transitions(affinities: Tensor, radius: int) -> sparse.csr_array:
    """Affinities between places, both ways and to themselves, divided by the sum of each row."""
    _, height, width = affinities.shape
    places = np.arange(height * width)
    starts, ends, weights = [], [], []
    for path, weight in zip(paths(radius), affinities.flatten(1).numpy()):
        # Paths out of the image, or across a full edge, have no weight and need no room.
        some = weight.nonzero()[0]
        starts.append(some)
        ends.append(some + path.end[0] * width + path.end[1])
        weights.append(weight[some])
    half = sparse.coo_array(
        (np.concatenate([*weights, []]), (np.concatenate([*starts, places[:0]]), np.concatenate([*ends, places[:0]]))),
        shape=(len(places), len(places)),
    ).tocsr()
    whole = (half + half.T + sparse.eye_array(len(places))).tocsr()
    return (sparse.diags_array(1 / whole.sum(axis=1)) @ whole).tocsr()


def _check(maps: Tensor, edges: Tensor, radius: int, beta: float, log2_steps: int) -> None:
    if maps.ndim != 3 or edges.shape != maps.shape[1:]:
        raise ValueError(f"expected maps [K, h, w] and edges [h, w], got {tuple(maps.shape)} and {tuple(edges.shape)}")
    if radius < 1 or not 0 < beta < float("inf") or not 0 <= log2_steps <= MOST:
        raise ValueError(
            f"expected radius >= 1, beta > 0 and log2_steps 0 to {MOST}, got radius={radius}, beta={beta}, "
            f"log2_steps={log2_steps}"
        )
    require_finite(maps, "maps")
    require_finite(edges, "edges")
    if edges.numel() and not (float(edges.min()) >= 0 and float(edges.max()) <= 1):
        raise ValueError(f"expected edges in 0..1, got {float(edges.min()):.3g}..{float(edges.max()):.3g}")
