"""Extended log-barrier: a smooth penalty for constraints z <= 0 that is finite where they are broken."""

import math

import torch
from torch import Tensor

GROWTH = 1.01
LIMIT = 10.0


def extended_log_barrier(z: Tensor, t: float | Tensor) -> Tensor:
    r"""Penalty of the constraint z <= 0, element by element.

    .. math:: \psi_t(z) = -\tfrac{1}{t} \ln(-z) \;\text{ if }\; z \le -\tfrac{1}{t^2}, \quad
        t z - \tfrac{1}{t} \ln \tfrac{1}{t^2} + \tfrac{1}{t} \;\text{ otherwise}

    Its derivative, -1 / (t z) or t, is continuous. A larger t comes closer to a hard wall at 0.

    Parameters
    ----------
    z
        Values of the constrained expression, any shape, floating point.
    t
        Steepness, positive.

    Returns
    -------
    Tensor
        Like ``z``. Unbounded below: a constraint that holds by far is rewarded, without end.

    Raises
    ------
    ValueError
        A t that is not positive and finite.
    TypeError
        Values that are not floating point.

    References
    ----------
    Kervadec et al., Constrained deep networks: Lagrangian optimization via log-barrier extensions, 2019.

    Examples
    --------
    >>> extended_log_barrier(torch.tensor([-1.0, 0.0, 1.0]), 1.0).tolist()
    [-0.0, 1.0, 2.0]
    """
    steepness = float(t)
    if not (steepness > 0 and math.isfinite(steepness)):
        raise ValueError(f"expected a positive, finite t, got {steepness}")
    if not z.is_floating_point():
        raise TypeError(f"expected floating point z, got {z.dtype}")
    corner = -1 / steepness**2
    holds = z <= corner
    # Both branches are computed everywhere: the logarithm must not see z > corner, or its gradient there is 0 * inf.
    barrier = -torch.log(-torch.where(holds, z, corner)) / steepness
    line = steepness * z - math.log(-corner) / steepness + 1 / steepness
    return torch.where(holds, barrier, line)


def barrier_steepness(updates: int) -> float:
    """The t after a number of updates, which F-CAM makes once an epoch: from 1, times 1.01 each, to at most 10.

    Parameters
    ----------
    updates
        How many there were, 0 or more.

    Raises
    ------
    ValueError
        A negative number of updates.

    Examples
    --------
    >>> round(barrier_steepness(50), 2), barrier_steepness(300)
    (1.64, 10.0)
    """
    if updates < 0:
        raise ValueError(f"expected 0 updates or more, got {updates}")
    # 1.01 to the power of many thousand overflows; from 232 on the limit holds anyway.
    return min(LIMIT, GROWTH ** min(updates, 1000))
