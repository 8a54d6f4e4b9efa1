"""Weighted means over a pixel's neighbours as a product with a sparse matrix, where many maps share the weights."""

import warnings
from collections.abc import Sequence
from functools import cache
from threading import Lock

import torch
from torch import Tensor

LANES = 4
"""Maps are filled up to a multiple of this: the product is slower for odd numbers of columns."""
_LOCK = Lock()


def neighbour_matrix(weights: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """Matrix whose product with maps is every pixel's weighted sum over its neighbours.

    Parameters
    ----------
    weights
        ``[n, H, W]`` of a pixel's neighbours.
    offsets
        Where those are, n of ``(y, x)``; what lies outside of the image is the nearest pixel inside.

    Returns
    -------
    Tensor
        ``[H W, H W]`` in CSR layout, float32 with int32 places: 8 n bytes a pixel.

    Raises
    ------
    ValueError
        As many offsets as weights are needed, and places that int32 can count.

    Examples
    --------
    >>> found = neighbour_matrix(torch.tensor([[[1.0, 0.5]], [[0.0, 0.5]]]), [(0, -1), (0, 1)])
    >>> found.to_dense().tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    count, height, width = weights.shape
    if count != len(offsets) or weights.numel() >= 2**31:
        raise ValueError(
            f"expected weights [n, H, W] of n={len(offsets)} offsets, below 2**31 of them, got {tuple(weights.shape)}"
        )
    shifts = torch.tensor(offsets, dtype=torch.int32, device=weights.device)
    rows, columns = (torch.arange(size, dtype=torch.int32, device=weights.device)[:, None] for size in (height, width))
    rows = (rows + shifts[:, 0]).clamp_(0, height - 1) * width
    columns = (columns + shifts[:, 1]).clamp_(0, width - 1)
    places = (rows[:, None] + columns).view(-1)
    ends = torch.arange(0, weights.numel() + 1, count, dtype=torch.int32, device=weights.device)
    values = weights.permute(1, 2, 0).reshape(-1)
    size = (height * width, height * width)
    _expect_csr()
    # Pixels at the border have a neighbour more than once, which the checks of CSR would refuse and products add up.
    return torch.sparse_csr_tensor(ends, places, values, size, check_invariants=False)


def repeated_product(matrix: Tensor, maps: Tensor, times: int) -> Tensor:
    """Maps ``[K, H, W]`` multiplied so often by a matrix ``[H W, H W]``.

    Examples
    --------
    >>> repeated_product(neighbour_matrix(torch.ones(1, 1, 3), [(0, 1)]), torch.tensor([[[4.0, 5.0, 6.0]]]), 2).tolist()
    [[[6.0, 6.0, 6.0]]]
    """
    count = len(maps)
    found = maps.new_zeros(maps[0].numel(), -(-count // LANES) * LANES)
    found[:, :count] = maps.flatten(1).T
    other = torch.empty_like(found)
    for _ in range(times):
        torch.addmm(other, matrix, found, beta=0, out=other)
        found, other = other, found
    return found[:, :count].T.reshape(maps.shape)


def sparse_products() -> bool:
    """Whether this torch multiplies sparse matrices on a CPU by MKL.

    Examples
    --------
    >>> sparse_products() == torch.backends.mkl.is_available()
    True
    """
    return bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]


@cache
def _expect_csr() -> None:
    """Let torch say that CSR is new, as it does once a process: warnings as errors would take that for a failure."""
    # Filters of warnings are shared by all threads, so only here.
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)
