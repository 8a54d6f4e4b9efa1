"""Permutohedral lattice: sums over all pairs of points under a Gaussian, in time linear in the points.

Every point of the feature space lies in a simplex of a lattice and hands its value to the corners (splat), the corners
exchange values along the lattice's axes with weights 1/2, 1, 1/2 (blur), and every point collects from its corners
(slice). The result is about half of the exact Gaussian sum, and that of the authors of the dense CRF loss in all its
details: the order of the blurs, the ties, geometry in float32. Values are summed in float64, which makes the compiled
and the plain path agree to the last bit.
"""

from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

AXES = 5
CORNERS = AXES + 1
FARTHEST = 1e6
"""Beyond it float32 no longer tells the simplices of a unit apart, and later int32 not the corners."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Indices = NDArray[np.int32]


class LatticeRangeError(ValueError):
    """Features so far apart that a corner of the lattice has no 64-bit number."""


def compiled_kernels() -> ModuleType | None:
    """The compiled path, or None without numba: the same numbers, slower."""
    try:
        return import_module("methods.losses.lattice_numba")
    except ImportError:
        return None


class Lattice:
    """The lattice of one set of points; filters any number of values on it.

    Parameters
    ----------
    features
        Points, ``[P, 5]`` float32, each axis divided by its standard deviation.
    compiled
        Whether to use numba. None: where it is installed.

    Attributes
    ----------
    vertices
        Corners of each point's simplex, ``[P, 6]`` int32: 0..M - 1.
    weights
        Barycentric coordinates in it, ``[P, 6]`` float32; they sum to 1 up to rounding.
    neighbours
        Next corner in the positive direction of each axis, ``[6, M]`` int32; M where there is none.

    Raises
    ------
    ValueError
        Another shape or type, or features that are not finite.
    LatticeRangeError
        Features too far apart to number the corners.
    ModuleNotFoundError
        Compiled code is demanded and numba is not installed.

    References
    ----------
    Adams et al., Fast high-dimensional filtering using the permutohedral lattice, 2010. Tang et al., On regularized
    losses for weakly-supervised CNN segmentation, 2018 (rloss), for the details.

    Examples
    --------
    >>> lattice = Lattice(np.zeros((3, 5), dtype=np.float32))
    >>> lattice.filter(np.ones((3, 1))).round(3).tolist()  # three points in one place
    [[2.955], [2.955], [2.955]]
    """

    def __init__(self, features: Floats, *, compiled: bool | None = None) -> None:
        if features.ndim != 2 or features.shape[1] != AXES or features.dtype != np.float32:
            raise ValueError(f"expected float32 features [P, {AXES}], got {features.dtype} {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError(f"expected finite features, got {int((~np.isfinite(features)).sum())} NaN or infinite")
        if features.size and np.abs(features).max() > FARTHEST:
            raise LatticeRangeError(
                f"expected features within {FARTHEST:.0e} standard deviations of 0, got {np.abs(features).max():.3g}: "
                "give larger standard deviations"
            )
        self._kernels = compiled_kernels() if compiled is not False else None
        if compiled and self._kernels is None:
            raise ModuleNotFoundError("expected numba for the compiled lattice: install the extra `maskmill[fast]`")
        self.vertices: Indices
        self.neighbours: Indices
        self.weights: Floats
        geometry = plain_geometry if self._kernels is None else self._kernels.geometry
        number = plain_corners if self._kernels is None else self._kernels.corners
        multiples, ranks, self.weights = geometry(features, scale_factors())
        strides, start = numbering(multiples)
        self.vertices, self.neighbours = number(multiples, ranks, strides, start)

    def filter(self, values: NDArray[np.floating]) -> Doubles:
        """Sums of the values of all points under the kernel.

        Parameters
        ----------
        values
            ``[P, K]`` floating point.

        Returns
        -------
        ndarray
            ``[P, K]`` float64, not normalised: large where many points are close.
        """
        if values.ndim != 2 or len(values) != len(self.vertices):
            raise ValueError(f"expected values [{len(self.vertices)}, K], got shape {values.shape}")
        exact = np.ascontiguousarray(values, dtype=np.float64)
        run = plain_filter if self._kernels is None else self._kernels.filter_values
        filtered: Doubles = run(exact, self.vertices, self.weights, self.neighbours)
        return filtered


def scale_factors() -> Floats:
    """What makes the lattice's blur a Gaussian of standard deviation 1 along every feature."""
    axis = np.arange(AXES)
    factors: Doubles = np.sqrt(2 / 3) * CORNERS / np.sqrt((axis + 1) * (axis + 2))
    return factors.astype(np.float32)


def plain_geometry(features: Floats, scales: Floats) -> tuple[Indices, Indices, Floats]:
    """Simplex of every point: multiples of 6 nearest to it ``[P, 6]``, ranks ``[P, 6]`` and weights ``[P, 6]``."""
    points = len(features)
    scaled = (features * scales).T
    elevated = np.empty((CORNERS, points), np.float32)
    running = np.zeros(points, np.float32)
    for axis in range(AXES, 0, -1):
        elevated[axis] = running - np.float32(axis) * scaled[axis - 1]
        running = running + scaled[axis - 1]
    elevated[0] = running

    steps = np.rint(elevated * np.float32(1 / CORNERS))
    residuals = elevated - steps * np.float32(CORNERS)
    ranks = np.zeros((CORNERS, points), np.int32)
    for first in range(CORNERS):
        for second in range(first + 1, CORNERS):
            smaller = residuals[first] < residuals[second]
            ranks[first] += smaller
            ranks[second] += ~smaller

    # The nearest multiples may not lie in the plane of sum 0: the coordinates that were rounded furthest give way.
    whole = steps.astype(np.int32)
    ranks += whole.sum(axis=0)
    turn = (ranks < 0).astype(np.int32) - (ranks > AXES).astype(np.int32)
    ranks += CORNERS * turn
    multiples = CORNERS * (whole + turn)

    shares = (elevated - multiples.astype(np.float32)) * np.float32(1 / CORNERS)
    weights = np.zeros((CORNERS + 1, points), np.float32)
    columns = np.arange(points)
    for share, rank in zip(shares, ranks):
        weights[AXES - rank, columns] += share
        weights[CORNERS - rank, columns] -= share
    weights[0] += np.float32(1) + weights[CORNERS]
    return multiples.T, ranks.T, np.ascontiguousarray(weights[:CORNERS].T)


def numbering(multiples: Indices) -> tuple[Integers, Integers]:
    """Strides and start of numbers for corners: linear in the corner, and one-to-one on all of them and beyond.

    A corner is known by its first 5 coordinates, because all 6 sum to 0. Linear numbers make that of a neighbour a
    constant away; a margin of 11 on both sides keeps neighbours of the outermost apart from others.
    """
    if not len(multiples):
        return np.ones(AXES, np.int64), np.zeros(AXES, np.int64)
    margin = 2 * CORNERS - 1
    start = multiples[:, :AXES].min(axis=0).astype(np.int64) - margin
    spans = multiples[:, :AXES].max(axis=0).astype(np.int64) + margin - start + 1
    if np.prod(spans.astype(np.float64)) >= 2.0**62:
        raise LatticeRangeError(
            f"expected lattice coordinates whose spans multiply to less than 2^62, got spans {spans.tolist()}: "
            "give larger standard deviations"
        )
    return np.concatenate([np.cumprod(spans[:0:-1])[::-1], [1]]).astype(np.int64), start


def axis_offsets(strides: Integers) -> Integers:
    """How much larger the number of the next corner along each of the 6 axes is: all + 1, the axis itself - 5."""
    return np.concatenate([strides.sum() - CORNERS * strides, [strides.sum()]])


def plain_corners(multiples: Indices, ranks: Indices, strides: Integers, start: Integers) -> tuple[Indices, Indices]:
    """Corners of every point as indices ``[P, 6]``, and the neighbour of every corner ``[6, M]``, M for none."""
    base = (multiples[:, :AXES] - start) @ strides
    numbers = np.empty(multiples.shape, np.int64)
    for corner in range(CORNERS):
        wraps = ranks[:, :AXES] > AXES - corner
        numbers[:, corner] = base + corner * strides.sum() - CORNERS * (wraps @ strides)
    known, vertices = np.unique(numbers, return_inverse=True)
    wanted = known + axis_offsets(strides)[:, None]
    places = np.searchsorted(known, wanted)
    places[known[np.minimum(places, max(len(known) - 1, 0))] != wanted] = len(known)
    return vertices.reshape(numbers.shape).astype(np.int32), places.astype(np.int32)


def plain_filter(values: Doubles, vertices: Indices, weights: Floats, neighbours: Indices) -> Doubles:
    """Splat, blur along one axis after the other, slice."""
    count, flat = neighbours.shape[1], vertices.ravel()
    # One more row stands for all neighbours that do not exist.
    nodes = np.zeros((count + 1, values.shape[1]))
    for column in range(values.shape[1]):
        spread = (weights * values[:, column, None]).ravel()
        nodes[:count, column] = np.bincount(flat, spread, minlength=count)
    for forward in neighbours:
        backward = np.full(count + 1, count, np.int32)
        backward[forward] = np.arange(count, dtype=np.int32)
        nodes[:count] = nodes[:count] + 0.5 * (nodes[forward] + nodes[backward[:count]])
    sliced = np.zeros_like(values)
    for corner in range(CORNERS):
        sliced += weights[:, corner, None] * nodes[vertices[:, corner]]
    return sliced / (1 + 2.0**-AXES)
