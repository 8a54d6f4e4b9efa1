"""Soft maps of several proposals from one recording: methods on layers, truncated, fused, with one set of sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from methods.activation.errors import UnknownLayerError
from methods.activation.fuse import Fusion, fuse
from methods.activation.layer_maps import GradientMethod, Kind, layer_maps
from methods.activation.record import Record
from methods.activation.truncate import Population, check_truncation


@dataclass(frozen=True, slots=True)
class Recipe:
    """How maps are made of a recording.

    Attributes
    ----------
    method
        How one layer's activations and gradients become a map.
    layers
        One layer, or several that are fused (layerization).
    truncation
        Percentile in 0..100 below which positive gradients are dropped; None keeps all gradients, negative ones too.
    population
        Positive gradients that the percentile is taken over.
    fusion
        How the layers' maps are joined.

    Raises
    ------
    ValueError
        A value out of its range, or no layer.
    """

    method: GradientMethod
    layers: tuple[str, ...]
    truncation: int | None = None
    population: Population = "channel"
    fusion: Fusion = "sum"

    def __post_init__(self) -> None:
        if self.method not in get_args(GradientMethod):
            raise ValueError(f"expected method as one of {get_args(GradientMethod)}, got {self.method!r}")
        if not isinstance(self.layers, tuple) or not self.layers:
            raise ValueError(f"expected layers as a tuple of at least one name, got {self.layers!r}")
        check_truncation(0 if self.truncation is None else self.truncation, self.population)
        if self.fusion not in get_args(Fusion):
            raise ValueError(f"expected fusion as one of {get_args(Fusion)}, got {self.fusion!r}")

    @property
    def _kind(self) -> Kind:
        return Kind(self.method, self.truncation, self.population)


def soft_maps(record: Record, recipes: Sequence[Recipe], *, compiled: bool = False) -> list[Tensor]:
    """Maps of every pair of a recording, by every recipe.

    Recipes share what they have in common: the sums over a layer, and one sort for all percentiles of a population.
    A recipe more costs little, a sweep of percentiles hardly more than one of them.

    Parameters
    ----------
    record
        Activations and gradients of the layers, P pairs.
    recipes
        Any number, in any order.
    compiled
        Compute the sums by one kernel made by ``torch.compile``: twice as fast, after some ten seconds at the first
        call. Where there is no compiler, a warning is logged and the maps are made without.

    Returns
    -------
    list of Tensor
        ``(P, h, w)`` float32 for each recipe, at the size of its largest layer, not normalised (see ``fusion``).
        Recipes that are the same by definition may share a tensor.

    Raises
    ------
    UnknownLayerError
        A recipe's layer was not recorded.

    Notes
    -----
    Against ``grad_cam`` and its kin one by one, maps differ by the order of float32 sums: some 1e-6 of their maximum.

    References
    ----------
    LTGrad-CAM, Eq. 8 to 11: maps are rectified before they are enlarged and summed.

    Examples
    --------
    >>> recorded = Record(
    ...     {"a": torch.tensor([[[[2.0, -4.0]]]])},
    ...     {"a": torch.tensor([[[[2.0, -1.0]]]])},
    ...     torch.zeros(1, 1),
    ...     torch.tensor([[0, 0]]),
    ... )
    >>> plain, truncated = soft_maps(recorded, [Recipe("grad_cam", ("a",)), Recipe("grad_cam", ("a",), truncation=0)])
    >>> plain.tolist(), truncated.tolist()
    ([[[1.0, 0.0]]], [[[2.0, 0.0]]])
    """
    kinds: dict[str, dict[Kind, None]] = {}
    for recipe in recipes:
        for layer in recipe.layers:
            if layer not in record.gradients:
                raise UnknownLayerError(f"layer {layer!r} was not recorded, there are {list(record.gradients)}")
            kinds.setdefault(layer, {})[recipe._kind] = None
    rows = record.pairs[:, 0]
    made = {
        layer: layer_maps(record.activations[layer], record.gradients[layer], rows, list(some), compiled=compiled)
        for layer, some in kinds.items()
    }
    return [_fused([made[layer][one._kind].to(torch.float32) for layer in one.layers], one.fusion) for one in recipes]


def _fused(maps: list[Tensor], fusion: Fusion) -> Tensor:
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
