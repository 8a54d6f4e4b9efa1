"""Gaussian sums over all pairs of points on any device: exactly, and by landmarks (the Nyström method)."""

import torch
from torch import Tensor

LANDMARKS = 256
SEED = 0
RIDGE = 1e-3
"""Added to the landmarks' own kernel matrix: without it equal colours make it singular. Costs .2 % of the sums."""
CELLS = 2**24
"""Entries of the kernel matrix that exist at one time: 64 MiB."""


def gaussian(one: Tensor, other: Tensor) -> Tensor:
    """Kernel matrix ``[P, Q]`` of points ``[P, D]`` and ``[Q, D]``, standard deviation 1."""
    # By differences and not by products, which lose all digits of a small distance.
    distances = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.square_().mul_(-0.5).exp_()


def exact_filter(features: Tensor, values: Tensor) -> Tensor:
    """Sums of the values of all points, time quadratic in the points.

    Parameters
    ----------
    features
        ``[P, D]`` float32, each axis divided by its standard deviation.
    values
        ``[P, K]`` float32, on the same device.

    Returns
    -------
    Tensor
        ``[P, K]`` float32, not normalised.

    Examples
    --------
    >>> exact_filter(torch.tensor([[0.0], [0.0], [99.0]]), torch.tensor([[1.0], [2.0], [5.0]])).tolist()
    [[3.0], [3.0], [5.0]]
    """
    rows = max(1, CELLS // max(1, len(features)))
    return torch.cat([gaussian(some, features) @ values for some in torch.split(features, rows)])


def nystrom_filter(features: Tensor, values: Tensor, *, landmarks: int = LANDMARKS) -> Tensor:
    r"""The same sums through a few landmarks, time linear in the points.

    .. math:: A \approx C (W + \rho I)^{-1} C^\top

    with C the kernel between points and landmarks and W that among landmarks. Holds C, 50 MiB for 224 x 224 points.

    Parameters
    ----------
    features, values
        As for :func:`exact_filter`.
    landmarks
        How many points to draw. The draw depends on the number of points alone: same input, same result.

    Returns
    -------
    Tensor
        ``[P, K]`` float32; on natural images within 1 % of the exact sums, in the same scale.

    Raises
    ------
    ValueError
        Less than one landmark.

    References
    ----------
    Williams and Seeger, Using the Nyström method to speed up kernel machines, 2000.
    """
    if landmarks < 1:
        raise ValueError(f"expected 1 landmark or more, got {landmarks}")
    draw = torch.randperm(len(features), generator=torch.Generator().manual_seed(SEED))[:landmarks]
    chosen = features[draw.to(features.device)]
    # The small system goes to the processor in float64, which not every device has.
    among = gaussian(chosen.cpu().double(), chosen.cpu().double())
    factor = torch.linalg.cholesky(among + RIDGE * torch.eye(len(among), dtype=torch.float64))
    across = gaussian(features, chosen)
    # Transposed: with few values the product as the formula has it takes 25 times as long.
    collected = (values.T @ across).T
    solved = torch.cholesky_solve(collected.cpu().double(), factor)
    return across @ solved.to(values)
