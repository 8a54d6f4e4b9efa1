"""Size loss: neither background nor foreground of an image may be empty (absolute size constraint of F-CAM)."""

import torch
from torch import Tensor

from methods.losses.log_barrier import extended_log_barrier
from methods.refinement.checks import require_finite


def size_loss(logits: Tensor, t: float | Tensor, weight: float = 0.1) -> Tensor:
    r"""Reward area of every channel, by the extended log-barrier of a > 0.

    .. math:: L = \frac{\lambda}{K} \sum_r \frac{1}{B} \sum_b \psi_t(-a_{b,r}), \qquad
        a_{b,r} = \sum_p \mathrm{softmax}(z_{b,p})_r

    Parameters
    ----------
    logits
        ``[B, K, H, W]`` floating point.
    t
        Steepness of the barrier, see :func:`methods.losses.log_barrier.barrier_steepness`.
    weight
        The factor lambda, 0 or more.

    Returns
    -------
    Tensor
        Scalar, at least float32; usually negative. Areas are counted in pixels, not as a share of the image: one pixel
        is enough to be on the logarithmic branch, where the pull towards more area is weak.

    Raises
    ------
    ValueError
        Another shape, an empty batch, logits that are not finite, a negative weight, or a t that is not positive.
    TypeError
        Logits that are not floating point.

    References
    ----------
    Belharbi et al., F-CAM, 2022, section 3: the size term.

    Examples
    --------
    >>> round(size_loss(torch.zeros(1, 2, 2, 2), 1.0, weight=1.0).item(), 4)  # two areas of two pixels: -ln 2
    -0.6931
    """
    if logits.ndim != 4 or not logits.numel():
        raise ValueError(f"expected logits [B, K, H, W] with something in them, got shape {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise TypeError(f"expected floating point logits, got {logits.dtype}")
    if not weight >= 0:
        raise ValueError(f"expected weight >= 0, got {weight}")
    require_finite(logits, "logits")
    # float16 would overflow at 65504 pixels.
    areas = logits.softmax(dim=1, dtype=torch.promote_types(logits.dtype, torch.float32)).sum(dim=(2, 3))
    return weight * extended_log_barrier(-areas, t).mean()
