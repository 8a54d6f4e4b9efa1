"""Inference at several scales and mirrored: what a network finds in any of its views of an image, put together."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["bilinear", "nearest"]

SCALES = (0.5, 1.0, 1.5, 2.0)
DECODER_SCALES = (1.0, 0.5, 1.5, 2.0)
COARSE = 4
FULL = 16
SMALL = 1e-5


class MultiScaleMaps(NamedTuple):
    """Class maps of all views, summed."""

    coarse: Tensor
    """``[B, K, ceil(H / 4), ceil(W / 4)]``, the grid of edges and of the random walk."""
    full: Tensor
    """``[B, K, H, W]``."""


class Decoded(NamedTuple):
    """What a decoder and a classifier say of all views, averaged."""

    probabilities: Tensor
    """``[B, K + 1, h, w]``, sums of 1 over the classes, background first."""
    scores: Tensor
    """``[B, K]`` in 0..1."""


def multi_scale(
    images: Tensor, class_maps: Callable[[Tensor], Tensor], *, scales: Sequence[float] = SCALES, flip: bool = True
) -> MultiScaleMaps:
    """Sum of the positive class maps of images in several sizes.

    Parameters
    ----------
    images
        ``[B, 3, H, W]`` floating point as the network takes them.
    class_maps
        Maps images of any size to class maps before pooling, ``[B, K, h, w]`` of any grid. It gets images and mirror
        images as one batch, and decides about gradients itself.
    scales
        Sizes relative to the images, bicubic; the sides are rounded.
    flip
        Add the maps of the mirror images, mirrored back.

    Returns
    -------
    MultiScaleMaps
        Sums, at least float32 and without a graph, resized bilinearly. :func:`divided_by_maximum` makes activation maps
        of them.

    Raises
    ------
    ValueError
        Images of another shape, no scale or one at which nothing is left, or class maps of another shape.
    TypeError
        Images that are not floating point.

    References
    ----------
    Jo and Yu, Puzzle-CAM: Improved Localization via Matching Partial and Full Features, ICIP 2021. They resize images
    of 8 bits with Pillow, which rounds and cuts off; the kernel is the same.

    Examples
    --------
    >>> found = multi_scale(torch.ones(1, 3, 6, 5), lambda views: views[:, :2])
    >>> found.coarse.shape, found.full.shape
    (torch.Size([1, 2, 2, 2]), torch.Size([1, 2, 6, 5]))
    >>> round(found.full[0, 0, 0, 0].item(), 3)
    8.0
    """
    _require(images, scales)
    found = (_summed(views, class_maps, images, flip) for views in _views(images, scales, flip))
    coarse, full = next(found)
    for another_coarse, another_full in found:
        coarse, full = coarse + another_coarse, full + another_full
    return MultiScaleMaps(coarse, full)


def multi_scale_decode(
    images: Tensor,
    network: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    scales: Sequence[float] = DECODER_SCALES,
    flip: bool = True,
    interpolation: Interpolation = "nearest",
) -> Decoded:
    """Mean probabilities of a decoder and mean scores of a classifier over images in several sizes.

    Parameters
    ----------
    images, scales, flip
        As for :func:`multi_scale`.
    network
        Maps images of any size to logits of a decoder, ``[B, K + 1, h, w]``, and of the classes, ``[B, K]``.
    interpolation
        How probabilities are resized to the grid of the first scale.

    Returns
    -------
    Decoded
        Means, at least float32 and without a graph. RecurSeed keeps classes that score .34 and more.

    Raises
    ------
    ValueError
        Images of another shape, no scale or one at which nothing is left, or logits of other shapes.
    TypeError
        Images that are not floating point.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022: inference.

    Examples
    --------
    >>> network = lambda views: (torch.zeros(len(views), 2, *views.shape[2:]), torch.zeros(len(views), 1))
    >>> found = multi_scale_decode(torch.ones(1, 3, 6, 5), network)
    >>> found.probabilities[0, :, 0, 0].tolist(), found.scores.tolist()
    ([0.5, 0.5], [[0.5]])
    """
    _require(images, scales)
    probabilities: list[Tensor] = []
    scores: list[Tensor] = []
    for views in _views(images, scales, flip):
        logits, class_logits = network(views)
        shares = _exact(logits, len(views), "decoder logits [n, K + 1, h, w]", 4).softmax(dim=1)
        mean = _together(shares, flip).mean(dim=0)
        size = (probabilities or [mean])[0].shape[2:]
        probabilities.append(_resized(mean, size, interpolation))
        classes = _exact(class_logits, len(views), "class logits [n, K]", 2).sigmoid()
        scores.append(classes.view(-1, len(images), classes.shape[1]).mean(dim=0))
    return Decoded(torch.stack(probabilities).mean(dim=0), torch.stack(scores).mean(dim=0))


def divided_by_maximum(maps: Tensor, classes: Tensor | None = None) -> Tensor:
    """Maps divided by their maximum and a little, ``x / (max + 1e-5)``; absent classes are 0.

    Parameters
    ----------
    maps
        ``[..., K, h, w]`` floating point, 0 and above.
    classes
        ``[..., K]``, 0 or 1; by default all are present.

    Raises
    ------
    ValueError
        Classes that do not belong to the maps.

    Examples
    --------
    >>> divided_by_maximum(torch.tensor([[[1.0, 4.0]], [[1.0, 2.0]]]), torch.tensor([1, 0])).round(decimals=4).tolist()
    [[[0.25, 1.0]], [[0.0, 0.0]]]
    """
    divided = maps / (maps.amax(dim=(-2, -1), keepdim=True) + SMALL)
    if classes is None:
        return divided
    if classes.shape != maps.shape[:-2]:
        raise ValueError(
            f"expected maps [..., K, h, w] and classes [..., K], got {tuple(maps.shape)} and {tuple(classes.shape)}"
        )
    return divided * classes.to(maps)[..., None, None]


def _summed(views: Tensor, class_maps: Callable[[Tensor], Tensor], images: Tensor, flip: bool) -> tuple[Tensor, Tensor]:
    """Positive maps of the views of one scale at both sizes."""
    maps = _exact(class_maps(views), len(views), "class maps [n, K, h, w]", 4).relu()
    joined = _together(maps, flip).sum(dim=0)
    height, width = images.shape[2:]
    coarse, above = ([-(-side // step) for side in (height, width)] for step in (COARSE, FULL))
    whole = _resized(joined, [FULL * side for side in above])
    return _resized(joined, coarse), whole[..., :height, :width]


def _views(images: Tensor, scales: Sequence[float], flip: bool) -> Iterator[Tensor]:
    height, width = images.shape[2:]
    for scale in scales:
        size = round(height * scale), round(width * scale)
        # Antialiased, as Pillow's: a plain bicubic kernel would skip pixels on the way down.
        same = size == (height, width)
        scaled = images if same else F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
        yield torch.cat([scaled, scaled.flip(-1)]) if flip else scaled


def _together(maps: Tensor, flip: bool) -> Tensor:
    """Maps of views as ``[views, B, K, h, w]``, those of the mirror images mirrored back."""
    if not flip:
        return maps[None]
    straight, mirrored = maps.chunk(2)
    return torch.stack([straight, mirrored.flip(-1)])


def _resized(maps: Tensor, size: Sequence[int], interpolation: Interpolation = "bilinear") -> Tensor:
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    corners = False if interpolation == "bilinear" else None
    return F.interpolate(maps, list(size), mode=interpolation, align_corners=corners)


def _exact(found: Tensor, count: int, what: str, dimensions: int) -> Tensor:
    if found.ndim != dimensions or len(found) != count:
        raise ValueError(f"expected {what} of {count} views, got shape {tuple(found.shape)}")
    return found.detach().to(torch.promote_types(found.dtype, torch.float32))


def _require(images: Tensor, scales: Sequence[float]) -> None:
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"expected images [B, 3, H, W], at least one, got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"expected floating point images, got {images.dtype}")
    height, width = images.shape[2:]
    if not scales or not all(0 < scale < float("inf") and round(min(height, width) * scale) for scale in scales):
        raise ValueError(f"expected scales at which something is left of {height} x {width} pixels, got {scales}")
