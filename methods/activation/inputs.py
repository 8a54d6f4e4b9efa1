"""Input checks and the weighted sum that the maps of this package share."""

import torch
from torch import Tensor


def check_matched(activations: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse anything but two equal shapes [P, C, h, w]; half precision goes up to float32, float64 stays."""
    if activations.ndim != 4 or activations.shape != gradients.shape:
        raise ValueError(
            f"expected activations and gradients of one shape [P, C, h, w], got {tuple(activations.shape)} and "
            f"{tuple(gradients.shape)}; Record.paired gives both"
        )
    return at_least_float32(activations), at_least_float32(gradients)


def at_least_float32(values: Tensor) -> Tensor:
    """Sums over hundreds of channels lose digits in half precision."""
    if not values.is_floating_point():
        raise ValueError(f"expected floating values, got {values.dtype}")
    return values.to(torch.promote_types(values.dtype, torch.float32))


def weighted_sum(activations: Tensor, weights: Tensor, rectify: bool) -> Tensor:
    """Sum of ``[P, C, h, w]`` over channels with weights ``[P, C]``, rectified where asked: ``[P, h, w]``."""
    maps = torch.einsum("pk,pkhw->phw", weights, activations)
    return maps.clamp_(min=0) if rectify else maps
