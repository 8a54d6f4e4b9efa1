"""The engine of maps without gradients: change the image once per channel, score each change, weigh the channels.

Score-CAM, SS-CAM and IS-CAM differ only in how a channel masks the image, Ablation-CAM in what is changed, and
VL-Score in what scores. A masked pass does not depend on the class, so one set of passes serves all pairs of an image.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from methods.activation.enlarge import enlarge
from methods.activation.frozen import frozen
from methods.activation.fuse import min_max
from methods.activation.inputs import at_least_float32
from methods.activation.observe import observe

Score = Callable[[Tensor], Tensor]
"""From logits ``[N, K]`` (or whatever the network returns) to scores ``[N, K]``."""

Masks = Literal["enlarged_first", "normalised_first"]
MASK_EPSILON = 1e-8

_log = logging.getLogger(__name__)


def identity(logits: Tensor) -> Tensor:
    """The score of every method here by default: the logit itself."""
    return logits


def enlarged_masks(features: Tensor, size: tuple[int, int], masks: Masks, epsilon: float = MASK_EPSILON) -> Tensor:
    """Masks in 0..1 at the image's size from feature maps.

    Parameters
    ----------
    features
        ``[N, h, w]``.
    size
        ``(H, W)``.
    masks
        ``enlarged_first``: bilinear with corners aligned, then min-max. ``normalised_first``: min-max, then bilinear
        with corners not aligned, so that a mask may stay below 1.
    epsilon
        Added to the divisor of the min-max.

    Returns
    -------
    Tensor
        ``[N, H, W]``; a constant feature map masks everything.

    Examples
    --------
    >>> enlarged_masks(torch.tensor([[[1.0, 3.0]]]), (1, 3), "enlarged_first").tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    if masks == "enlarged_first":
        return min_max(enlarge(at_least_float32(features), size, align_corners=True), epsilon)
    if masks == "normalised_first":
        return enlarge(min_max(features, epsilon), size)
    raise ValueError(f"expected masks 'enlarged_first' or 'normalised_first', got {masks!r}")


def strongest_channels(features: Tensor, max_maps: int | None) -> Tensor:
    """Channels of ``[C, h, w]`` with the largest sum of squares, in channel order; all of them for None.

    Examples
    --------
    >>> strongest_channels(torch.tensor([[[1.0]], [[-3.0]], [[2.0]]]), 2).tolist()
    [1, 2]
    """
    if max_maps is not None and max_maps < 1:
        raise ValueError(f"expected max_maps of at least 1, got {max_maps}")
    if max_maps is None or max_maps >= len(features):
        return torch.arange(len(features), device=features.device)
    energy = at_least_float32(features).square().sum((1, 2))
    return energy.topk(max_maps).indices.sort().values


def score_batches(score: Score, batches: Iterator[Tensor]) -> Tensor:
    """Scores ``[N, K]`` of all inputs that ``batches`` yields, one batch in memory at a time."""
    return torch.cat([at_least_float32(score(inputs)) for inputs in batches])


def masked_batches(
    image: Tensor,
    features: Tensor,
    masks: Masks,
    batch: int,
    adjust: Callable[[Tensor, int], Tensor] | None = None,
) -> Iterator[Tensor]:
    """One image times the mask of each feature map, ``[<= batch, 3, H, W]`` at a time.

    Parameters
    ----------
    image
        ``[3, H, W]``, preprocessed.
    features
        ``[N, h, w]``; enlarged batch by batch, never all at once.
    masks
        As in :func:`enlarged_masks`.
    batch
        Most inputs at a time.
    adjust
        Changes the masks ``[n, H, W]`` of a batch, given the place of its first in ``features``.
    """
    if batch < 1:
        raise ValueError(f"expected a batch of at least 1, got {batch}")
    height, width = image.shape[1:]
    for start in range(0, len(features), batch):
        mask = enlarged_masks(features[start : start + batch], (height, width), masks)
        if adjust is not None:
            mask = adjust(mask, start)
        yield image * mask[:, None].to(image.dtype)


def weighted_channel_maps(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    weigh: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    *,
    max_maps: int | None,
    rectify: bool,
) -> Tensor:
    """Map of each pair as a weighted sum of the layer's channels, with weights that cost forward passes.

    Parameters
    ----------
    model, images, pairs, layer
        As in :func:`methods.activation.record`.
    weigh
        Called once per image that has a pair, without gradients and with the network frozen: from its row, its features
        ``[N, h, w]``, their channel numbers ``[N]`` and its logits ``[K]`` to weights ``[N, K]``.
    max_maps
        Use only so many channels, those of most energy; the rest takes no part. None for all.
    rectify
        Set negative values of the map to zero.

    Returns
    -------
    Tensor
        ``[P, h, w]``, at least float32.
    """
    activations, logits = observe(model, images, pairs, [layer])
    features = activations[layer]
    if max_maps is not None and max_maps < features.shape[1]:
        _log.info("layer %r: %d of %d channels used, by energy", layer, max_maps, features.shape[1])
    maps = features.new_empty(
        (len(pairs), *features.shape[2:]), dtype=torch.promote_types(features.dtype, torch.float32)
    )
    rows = pairs[:, 0].tolist()
    with torch.no_grad(), frozen(model):
        for row in dict.fromkeys(rows):
            channels = strongest_channels(features[row], max_maps)
            used = features[row, channels]
            weights = weigh(row, used, channels, logits[row])
            members = [place for place, other in enumerate(rows) if other == row]
            chosen = weights[:, pairs[members, 1].to(weights.device)].to(maps.dtype)
            maps[members] = torch.einsum("np,nhw->phw", chosen, used.to(maps.dtype))
    return maps.clamp_(min=0) if rectify else maps


def masked_cam(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    repeats: Callable[[int, Tensor, Tensor], Iterator[Iterator[Tensor]]],
    *,
    score: Score,
    max_maps: int | None,
    rectify: bool,
) -> Tensor:
    """Maps whose weights are a softmax over channels of their mean score under one or more maskings.

    ``repeats`` takes an image's row, its features ``[N, h, w]`` and their channel numbers ``[N]``, and yields, per
    masking, the batches of masked inputs. The score of an unmasked image, which some authors subtract first, cancels
    in the softmax.
    """

    def weigh(row: int, used: Tensor, channels: Tensor, _logits: Tensor) -> Tensor:
        total: Tensor | None = None
        count = 0
        for batches in repeats(row, used, channels):
            scores = score_batches(lambda inputs: score(model(inputs)), batches)
            total = scores if total is None else total + scores
            count += 1
        if total is None:
            raise ValueError("expected at least one masking of the image, got none")
        return (total / count).softmax(0)

    return weighted_channel_maps(model, images, pairs, layer, weigh, max_maps=max_maps, rectify=rectify)
