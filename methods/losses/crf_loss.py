"""Dense CRF loss: pixels that are close in place and colour should share their class."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import interpolate

from methods.losses.bilateral import Kernel, bilateral_filter
from methods.refinement.checks import require_finite


def crf_loss(
    images: Tensor,
    probabilities: Tensor,
    *,
    weight: float = 2e-9,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 1.0,
    kernel: Kernel = "lattice",
) -> Tensor:
    r"""Negative agreement of all pairs of pixels, mean of the images.

    .. math:: L = -\frac{w}{B} \sum_b \sum_k S_{b,k}^\top A_b S_{b,k}, \qquad
        \frac{\partial L}{\partial S_{b,k}} = -\frac{2 w}{B} A_b S_{b,k}

    with A of :func:`methods.losses.bilateral.bilateral_filter`, a constant to the gradient. For probabilities this is
    the disagreement :math:`\sum_k S_k^\top A (1 - S_k)` up to a constant of the image.

    Parameters
    ----------
    images
        ``[B, 3, H, W]``, 0..255, not normalised, any real type.
    probabilities
        Softmax of the network, ``[B, K, H, W]`` floating point, any K.
    weight
        The factor w, 0 or more. It belongs to the kernel: that of the lattice is about half of the exact one.
    sigma_rgb, sigma_xy
        Standard deviations in units of colour and in pixels of the full image, positive.
    scale
        Resize both by this factor first, images by nearest pixel and probabilities bilinearly, sigma_xy along with
        them. 1 leaves them alone.
    kernel
        ``lattice`` as the authors have it, ``exact`` for small images, ``nystrom`` on any device.

    Returns
    -------
    Tensor
        Scalar, at least float32; negative is normal.

    Raises
    ------
    ValueError
        As :func:`methods.losses.bilateral.bilateral_filter`; a negative weight, or a scale that leaves no pixel.
    TypeError
        Probabilities that are not floating point.
    LatticeRangeError
        Sigmas so small that the lattice's corners cannot be numbered.

    References
    ----------
    Tang et al., On regularized losses for weakly-supervised CNN segmentation, 2018. Belharbi et al., F-CAM, 2022.

    Examples
    --------
    >>> images = torch.zeros(1, 3, 1, 2)
    >>> sure = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])
    >>> crf_loss(images, sure, weight=1.0, sigma_xy=1e6, kernel="exact").item()  # all four pairs agree
    -4.0
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"expected weight >= 0, got {weight}")
    if not 0 < scale < float("inf"):
        raise ValueError(f"expected a positive scale, got {scale}")
    if not probabilities.is_floating_point():
        raise TypeError(f"expected floating point probabilities, got {probabilities.dtype}")
    require_finite(images, "images")
    require_finite(probabilities, "probabilities")
    exact = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    images, exact = _resized(images, exact, scale)
    filtered = bilateral_filter(images, exact, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy * scale, kernel=kernel)
    agreement: Tensor = _Agreement.apply(exact, filtered)
    return -weight / len(images) * agreement


def _resized(images: Tensor, probabilities: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Both by a factor."""
    if scale == 1 or images.ndim != 4 or probabilities.ndim != 4:
        return images, probabilities
    if min(*images.shape[2:], *probabilities.shape[2:]) * scale < 1:
        raise ValueError(f"expected a scale that leaves a pixel, got {scale} for {tuple(probabilities.shape)}")
    small = interpolate(images.float(), scale_factor=scale, mode="nearest")
    return small, interpolate(probabilities, scale_factor=scale, mode="bilinear", align_corners=False)


class _Agreement(torch.autograd.Function):
    """Sum of S times A S, whose gradient is 2 A S: A S is computed once and does for both. First derivatives only."""

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, filtered: Tensor) -> Tensor:
        ctx.save_for_backward(filtered)
        return (probabilities * filtered).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (filtered,) = ctx.saved_tensors
        return 2 * gradient * filtered, None
