"""Dense CRF: mean-field refinement of class probabilities with a fully connected graph, by an optional package.

A slot and not an implementation: the published settings are those of pydensecrf, whose lattice filter, normalisation
and order of updates nothing here has been shown to equal, and nearly the same is not what a table of results should
call dense CRF. Without the package, :func:`methods.refinement.pamr` is the built-in refiner that follows edges.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.refinement.checks import require_finite

LEAST = 1e-5
"""Probabilities below this count as this, as in pydensecrf's own helper: a class can be unlikely, not impossible."""


class DenseCrfMissingError(ImportError):
    """The package behind :func:`dense_crf` cannot be imported."""


def dense_crf(
    images: Tensor,
    probabilities: Tensor,
    *,
    iterations: int = 10,
    gaussian_sigma: float = 3,
    gaussian_weight: float = 3,
    bilateral_sigma_xy: float = 80,
    bilateral_sigma_rgb: float = 13,
    bilateral_weight: float = 10,
) -> Tensor:
    r"""Refine probabilities so that near pixels, and pixels of like colour, agree.

    Mean-field inference with unary terms :math:`-\ln p` and, between any two pixels of different classes, the costs

    .. math:: w_1 \exp\Big(-\frac{|\Delta xy|^2}{2 \sigma_1^2}\Big)
        + w_2 \exp\Big(-\frac{|\Delta xy|^2}{2 \sigma_{xy}^2} - \frac{|\Delta rgb|^2}{2 \sigma_{rgb}^2}\Big).

    Parameters
    ----------
    images
        ``[B, 3, H, W]`` RGB uint8.
    probabilities
        ``[B, K, H, W]`` in 0..1, background included (usually first): each pixel's classes compete.
    iterations
        Mean-field updates, 1 and more.
    gaussian_sigma, gaussian_weight
        :math:`\sigma_1` in pixels and :math:`w_1`.
    bilateral_sigma_xy, bilateral_sigma_rgb, bilateral_weight
        :math:`\sigma_{xy}` in pixels, :math:`\sigma_{rgb}` in grey levels, :math:`w_2`.

    Returns
    -------
    Tensor
        ``[B, K, H, W]`` float32; a pixel's classes sum to 1.

    Raises
    ------
    DenseCrfMissingError
        pydensecrf is not installed, or does not load.
    ValueError
        Shapes that do not agree, probabilities not finite or outside of 0..1, options out of range, or a result that is
        not finite.
    TypeError
        Images that are not uint8, or probabilities that are not floating point.

    References
    ----------
    Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011.

    Examples
    --------
    >>> image = torch.zeros(1, 3, 4, 5, dtype=torch.uint8)
    >>> dense_crf(image, torch.full((1, 2, 4, 5), 0.5)).shape  # doctest: +SKIP
    torch.Size([1, 2, 4, 5])
    """
    positive = {
        "gaussian_sigma": gaussian_sigma,
        "bilateral_sigma_xy": bilateral_sigma_xy,
        "bilateral_sigma_rgb": bilateral_sigma_rgb,
    }
    weights = {"gaussian_weight": gaussian_weight, "bilateral_weight": bilateral_weight}
    _check_options(iterations, positive, weights)
    _check(images, probabilities)
    package = require_pydensecrf()
    found = torch.empty(probabilities.shape, dtype=torch.float32, device=probabilities.device)
    if found.numel() == 0:
        return found
    for row, (image, unary) in enumerate(zip(images, probabilities.detach())):
        energies = (-unary.to("cpu", torch.float32).clamp(LEAST, 1).log()).flatten(1).contiguous().numpy()
        crf = package.DenseCRF2D(image.shape[2], image.shape[1], len(unary))
        crf.setUnaryEnergy(energies)
        crf.addPairwiseGaussian(sxy=gaussian_sigma, compat=gaussian_weight)
        crf.addPairwiseBilateral(
            sxy=bilateral_sigma_xy, srgb=bilateral_sigma_rgb, rgbim=_pixels(image), compat=bilateral_weight
        )
        refined = np.array(crf.inference(iterations), dtype=np.float32)
        found[row] = torch.from_numpy(refined).view(unary.shape)
    require_finite(found, "probabilities from pydensecrf")
    return found


def require_pydensecrf() -> ModuleType:
    """The package, or an error that says how to get it; ask before any work that would end here.

    Raises
    ------
    DenseCrfMissingError
        It cannot be imported.
    """
    try:
        return import_module("pydensecrf.densecrf")
    except Exception as error:  # Compiled for another numpy, it raises more than ImportError.
        raise DenseCrfMissingError(
            "dense_crf needs the package pydensecrf, which is not part of maskmill and could not be imported "
            f"({type(error).__name__}: {error}). Install it into this environment with `pip install pydensecrf` (built "
            "from source: a C++ compiler is needed), or refine with pamr, which is built in"
        ) from error


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def _check_options(iterations: int, positive: dict[str, Any], weights: dict[str, Any]) -> None:
    if iterations < 1:
        raise ValueError(f"expected iterations >= 1, got {iterations}")
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"expected {name} > 0, got {value}")
    for name, value in weights.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"expected {name} >= 0, got {value}")


def _check(images: Tensor, probabilities: Tensor) -> None:
    shapes = f"got {tuple(images.shape)} and {tuple(probabilities.shape)}"
    if images.ndim != 4 or probabilities.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images [B, 3, H, W] and probabilities [B, K, H, W], {shapes}")
    if images[:, 0].shape != probabilities.shape[:1] + probabilities.shape[2:]:
        raise ValueError(f"expected images and probabilities of one size, {shapes}")
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images in 0..255, got {images.dtype}")
    if not probabilities.is_floating_point():
        raise TypeError(f"expected floating point probabilities, got {probabilities.dtype}")
    require_finite(probabilities, "probabilities")
    if probabilities.numel() and (float(probabilities.min()) < 0 or float(probabilities.max()) > 1):
        low, high = float(probabilities.min()), float(probabilities.max())
        raise ValueError(f"expected probabilities in 0..1, got {low:.3g}..{high:.3g}: apply a softmax first")
