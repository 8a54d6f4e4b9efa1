"""Soft maps of one proposal from one recording: the chosen method on every chosen layer, truncated, fused."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from methods.activation.fuse import fuse
from methods.activation.grad_cam import grad_cam
from methods.activation.grad_cam_plus_plus import grad_cam_plus_plus
from methods.activation.layer_cam import layer_cam
from methods.activation.record import Record
from methods.activation.truncate import truncate
from methods.activation.xgrad_cam import xgrad_cam

Method = Literal["grad_cam", "grad_cam_plus_plus", "layer_cam", "xgrad_cam"]
Population = Literal["channel", "layer"]
Fusion = Literal["sum", "mean_norm", "max_tanh"]

METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
}


def soft_maps(
    record: Record,
    method: Method,
    layers: Sequence[str],
    *,
    truncation: int | None = None,
    population: Population = "channel",
    fusion: Fusion = "sum",
) -> Tensor:
    """Maps of every pair of a recording.

    Parameters
    ----------
    record
        Activations and gradients of the layers, P pairs.
    method
        How one layer's activations and gradients become a map.
    layers
        One layer, or several that are fused (layerization).
    truncation
        Percentile below which positive gradients are dropped; None keeps all gradients, negative ones too.
    population
        Positive gradients that the percentile is taken over.
    fusion
        How the layers' maps are joined.

    Returns
    -------
    Tensor
        ``(P, h, w)`` float32 at the size of the largest layer, not normalised (see ``fusion``).

    References
    ----------
    LTGrad-CAM, Eq. 8 to 11: maps are rectified before they are enlarged and summed.
    """
    rows = record.pairs[:, 0]
    maps = []
    for layer in layers:
        gradients = record.gradients[layer]
        if truncation is not None:
            gradients = truncate(gradients, truncation, population)
        maps.append(METHODS[method](record.activations[layer][rows], gradients).to(torch.float32))
    if len(maps) == 1 and fusion == "sum":
        return maps[0]
    height, width = max((tuple(one.shape[-2:]) for one in maps), key=lambda size: size[0] * size[1])
    return fuse(maps, (height, width), fusion)


def map_flags(maps: Tensor) -> list[str]:
    """What is wrong with each map, empty where nothing is.

    Parameters
    ----------
    maps
        ``(P, h, w)``.

    Returns
    -------
    list of str
        ``nonfinite`` where a value is NaN or infinite, ``constant`` where all values are equal, else ``""``.

    Examples
    --------
    >>> map_flags(torch.tensor([[[0.0, 1.0]], [[2.0, 2.0]], [[0.0, float("nan")]]]))
    ['', 'constant', 'nonfinite']
    """
    flat = maps.flatten(1)
    finite = flat.isfinite().all(dim=1).tolist()
    constant = (flat.amax(dim=1) == flat.amin(dim=1)).tolist() if flat.shape[1] else [True] * len(flat)
    return ["nonfinite" if not f else "constant" if c else "" for f, c in zip(finite, constant, strict=True)]
