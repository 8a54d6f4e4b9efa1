"""Bilateral sums: for every pixel, the values of all pixels weighted by closeness in place and colour."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from methods.losses.lattice import Lattice
from methods.losses.nystrom import exact_filter, nystrom_filter
from methods.refinement.checks import require_finite

Kernel = Literal["lattice", "exact", "nystrom"]


def bilateral_filter(
    images: Tensor, values: Tensor, *, sigma_rgb: float = 15.0, sigma_xy: float = 100.0, kernel: Kernel = "lattice"
) -> Tensor:
    r"""Sums of values over all pixels of an image, no gradient.

    .. math:: (A S)_i = \sum_j S_j \exp\Big(-\frac{|x_i - x_j|^2}{2 \sigma_{xy}^2}
        - \frac{|c_i - c_j|^2}{2 \sigma_{rgb}^2}\Big)

    Parameters
    ----------
    images
        ``[B, 3, H, W]``, 0..255, any real type.
    values
        ``[B, K, H, W]`` floating point.
    sigma_rgb, sigma_xy
        Standard deviations in units of colour and in pixels, positive.
    kernel
        ``lattice``: the approximation of the authors of the dense CRF loss, .45 to .6 times the sums, on the processor.
        ``exact``: time quadratic in pixels, for small images and tests. ``nystrom``: within 1 %, on any device.

    Returns
    -------
    Tensor
        Like ``values``, float32; i = j counts. Not normalised.

    Raises
    ------
    ValueError
        Shapes that do not belong together, an unknown kernel, a sigma that is not positive, values that are not finite,
        or images outside 0..255.
    TypeError
        Values that are not floating point.
    LatticeRangeError
        Sigmas so small that the lattice's corners cannot be numbered.

    Examples
    --------
    >>> same = torch.zeros(1, 3, 1, 2)
    >>> bilateral_filter(same, torch.tensor([[[[1.0, 2.0]]]]), sigma_xy=1e6, kernel="exact").tolist()
    [[[[3.0, 3.0]]]]
    """
    _require_pairs(images, values)
    if kernel not in get_args(Kernel):
        raise ValueError(f"expected kernel to be one of {get_args(Kernel)}, got {kernel!r}")
    if not (0 < sigma_rgb < np.inf and 0 < sigma_xy < np.inf):
        raise ValueError(f"expected positive standard deviations, got sigma_rgb={sigma_rgb}, sigma_xy={sigma_xy}")
    filtered = torch.empty(values.shape, device=values.device, dtype=torch.float32)
    with torch.no_grad():
        for row, (image, maps) in enumerate(zip(images, values)):
            # Features are made on the processor: devices divide differently, and the lattice's ties show it.
            features = pixel_features(image.cpu(), sigma_rgb, sigma_xy)
            flat = maps.detach().float().flatten(1).T
            if kernel == "lattice":
                sums = torch.from_numpy(Lattice(features.numpy()).filter(flat.cpu().numpy()))
            else:
                through = exact_filter if kernel == "exact" else nystrom_filter
                sums = through(features.to(values.device), flat)
            filtered[row] = sums.T.reshape(maps.shape)
    return filtered


def pixel_features(image: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """Column, row and colours of every pixel of an image ``[3, H, W]`` over their standard deviations, ``[P, 5]``."""
    _, height, width = image.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns, rows]).float() / sigma_xy
    return torch.cat([places, image.float() / sigma_rgb]).flatten(1).T.contiguous()


def _require_pairs(images: Tensor, values: Tensor) -> None:
    """Refuse images and values that do not belong together, and images that are not in 0..255."""
    together = images.ndim == values.ndim == 4 and images.shape[::2] == values.shape[::2]
    if not together or images.shape[1] != 3 or images.shape[3] != values.shape[3] or not values.numel():
        raise ValueError(
            f"expected images [B, 3, H, W] and values [B, K, H, W] with something in them, "
            f"got {tuple(images.shape)} and {tuple(values.shape)}"
        )
    if not values.is_floating_point():
        raise TypeError(f"expected floating point values, got {values.dtype}")
    require_finite(images, "images")
    require_finite(values, "values")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 255:
        raise ValueError(f"expected images in 0..255, not normalised, got {low:.4g}..{high:.4g}")
