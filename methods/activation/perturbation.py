"""The engine of maps without gradients: change the image once per channel, score each change, weigh the channels.

Score-CAM, SS-CAM and IS-CAM differ only in how a channel masks the image (``changes``), Ablation-CAM in what is changed
(the layer and not the image), and VL-Score in what scores. A masked pass does not depend on the class or the prompt, so
one set of passes serves all pairs of an image.

Its parts stand alone: :func:`channel_scores` takes feature maps from anywhere and any scorer, :func:`channel_maps` any
weights. A network that does not classify (an image encoder) comes with a ``score`` that makes ``[N, K]`` of what it
returns, with prompts as the K classes.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from methods.activation.enlarge import enlarge
from methods.activation.errors import LogitsError
from methods.activation.frozen import frozen
from methods.activation.fuse import min_max
from methods.activation.halving import halving
from methods.activation.inputs import at_least_float32
from methods.activation.observe import Score, identity, observe

Scorer = Callable[[Tensor], Tensor]
"""From changed images ``[n, 3, H, W]`` to scores ``[n, K]``."""

Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From masks ``[n, H, W]``, their image rows ``[n]`` and channel numbers ``[n]`` to changed masks ``[n, H, W]``."""

Masks = Literal["enlarged_first", "normalised_first"]
MASK_EPSILON = 1e-8

_log = logging.getLogger(__name__)


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


def unchanged(masks: Tensor, _rows: Tensor, _channels: Tensor) -> Tensor:
    """The masks as they are: Score-CAM."""
    return masks


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


def network_scorer(model: nn.Module, score: Score = identity, precision: torch.dtype | None = None) -> Scorer:
    """A network and a score as one function of images.

    ``precision`` is the dtype of the network's pass under ``torch.autocast``; None for the caller's own mode. What the
    network returns is brought to float32 before ``score`` sees it, whose values may lie close together.

    Raises
    ------
    ValueError
        A precision that is not floating.
    """
    if precision is not None and not precision.is_floating_point:
        raise ValueError(f"expected a floating precision such as torch.bfloat16, got {precision}")

    def scorer(images: Tensor) -> Tensor:
        with nullcontext() if precision is None else torch.autocast(images.device.type, precision):
            output = model(images)
        whole = isinstance(output, Tensor) and output.is_floating_point()
        return score(at_least_float32(output) if whole else output)

    return scorer


def channel_scores(
    scorer: Scorer,
    images: Tensor,
    features: Tensor,
    rows: Tensor,
    channels: Tensor,
    *,
    masks: Masks,
    changes: Sequence[Change] = (unchanged,),
    batch: int = 16,
    epsilon: float = MASK_EPSILON,
) -> Tensor:
    """Mean score of images under the mask of each channel, over one or more changes of the masks.

    Parameters
    ----------
    scorer
        What scores: see :func:`network_scorer`. Called with ``[<= batch, 3, H, W]`` in the images' dtype and memory
        format; a batch may hold several images, so it must score each on its own.
    images
        ``[B, 3, H, W]``, preprocessed.
    features
        ``[B, C, h, w]``; enlarged slice by slice, never all at once.
    rows
        ``[R]``: the images to score, R of at least 1.
    channels
        ``[R, N]``: the channels whose masks to score, for each of these images.
    masks, epsilon
        As in :func:`enlarged_masks`.
    changes
        One masking each. A batch that runs out of memory is repeated in parts, so a change must give the same for the
        same row and channel every time.
    batch
        Most masked images at a time; halved, with a warning, when memory runs out.

    Returns
    -------
    Tensor
        ``[N, R, K]``, at least float32.

    Raises
    ------
    ValueError
        No change, or ``batch`` below 1.
    LogitsError
        Scores that are not ``[n, K]``.
    OneRowMemoryError
        One masked image alone does not fit into memory.

    Examples
    --------
    >>> images, features = torch.ones(1, 3, 1, 2), torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]])
    >>> first_pixel = lambda masked: masked[:, :1, 0, 0]
    >>> channel_scores(
    ...     first_pixel, images, features, torch.tensor([0]), torch.tensor([[0, 1]]), masks="enlarged_first"
    ... ).tolist()
    [[[0.0]], [[1.0]]]
    """
    if not changes:
        raise ValueError("expected at least one masking of the image, got none")
    if batch < 1:
        raise ValueError(f"expected a batch of at least 1, got {batch}")
    size = (images.shape[2], images.shape[3])
    # Channel by channel, all images of one before the next: a batch then needs the noise of few channels.
    all_rows, all_channels = rows.repeat(channels.shape[1]), channels.T.flatten()

    def score_slice(part: slice) -> Tensor:
        these, which = all_rows[part], all_channels[part]
        plain = enlarged_masks(features[these, which], size, masks, epsilon)
        total: Tensor | None = None
        for change in changes:
            found = _checked(scorer(_masked(images, these, change(plain, these, which))), len(these))
            total = found if total is None else total + found
        assert total is not None
        return total / len(changes)

    scores, _ = halving(score_slice, len(all_rows), batch)
    return torch.cat(scores).view(channels.shape[1], len(rows), -1)


def _masked(images: Tensor, rows: Tensor, masks: Tensor) -> Tensor:
    """Images of some rows times a mask each, in one copy and the images' memory format."""
    chosen = images[rows.to(images.device)]
    if images.is_contiguous(memory_format=torch.channels_last):
        chosen = chosen.contiguous(memory_format=torch.channels_last)
    return chosen.mul_(masks[:, None].to(chosen))


def _checked(scores: Tensor, count: int) -> Tensor:
    if scores.ndim != 2 or len(scores) != count:
        raise LogitsError(f"expected scores [n, K] with n={count}, the scorer returns shape {tuple(scores.shape)}")
    return at_least_float32(scores)


def channel_maps(
    features: Tensor, pairs: Tensor, rows: Tensor, channels: Tensor, weights: Tensor, *, rectify: bool
) -> Tensor:
    """Map of each pair as the sum of its image's channels with the weights of its class.

    Parameters
    ----------
    features
        ``[B, C, h, w]``.
    pairs
        Integers ``[P, 2]`` of (image row, class); every row is among ``rows``.
    rows, channels
        ``[R]`` and ``[R, N]``, as in :func:`channel_scores`.
    weights
        ``[N, R, K]``.
    rectify
        Set negative values of the map to zero.

    Returns
    -------
    Tensor
        ``[P, h, w]``, at least float32.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    maps = features.new_empty((len(pairs), *features.shape[2:]), dtype=dtype)
    pairs = pairs.to(features.device)
    for place, row in enumerate(rows.tolist()):
        members = (pairs[:, 0] == row).nonzero().squeeze(1)
        chosen = weights[:, place, pairs[members, 1].to(weights.device)].to(maps)
        maps[members] = torch.einsum("np,nhw->phw", chosen, features[row, channels[place]].to(dtype))
    return maps.clamp_(min=0) if rectify else maps


def weighted_channel_maps(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    weigh: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    *,
    score: Score = identity,
    max_maps: int | None,
    rectify: bool,
) -> Tensor:
    """Map of each pair as a weighted sum of the layer's channels, with weights that cost forward passes.

    Parameters
    ----------
    model, images, pairs, layer
        As in :func:`methods.activation.record`, where a pair's class is a column of the scores.
    weigh
        Called once, without gradients and with the network frozen: from the layer's output ``[B, C, h, w]``, the rows
        ``[R]`` of the images that have a pair, their channels in use ``[R, N]`` and the scores ``[B, K]`` of the
        unchanged images to weights ``[N, R, K]``.
    score
        From what the network returns for N images to scores ``[N, K]``.
    max_maps
        Use only so many channels, those of most energy; the rest takes no part. None for all.
    rectify
        Set negative values of the map to zero.

    Returns
    -------
    Tensor
        ``[P, h, w]``, at least float32.
    """
    activations, scores = observe(model, images, pairs, [layer], score)
    features = activations[layer]
    if max_maps is not None and max_maps < features.shape[1]:
        _log.info("layer %r: %d of %d channels used, by energy", layer, max_maps, features.shape[1])
    rows = torch.tensor(sorted(set(pairs[:, 0].tolist())), dtype=torch.int64, device=features.device)
    if not len(rows):
        return at_least_float32(features.new_empty((0, *features.shape[2:])))
    channels = torch.stack([strongest_channels(features[row], max_maps) for row in rows.tolist()])
    with torch.no_grad(), frozen(model):
        weights = weigh(features, rows, channels, scores)
        return channel_maps(features, pairs, rows, channels, weights, rectify=rectify)


def masked_cam(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    changes: Sequence[Change] = (unchanged,),
    *,
    masks: Masks,
    score: Score = identity,
    max_maps: int | None = None,
    rectify: bool = True,
    batch: int = 16,
    precision: torch.dtype | None = None,
) -> Tensor:
    """Maps whose weights are a softmax over channels of their mean score under one or more maskings.

    Parameters are those of :func:`weighted_channel_maps`, :func:`channel_scores` and :func:`network_scorer`. The score
    of an unmasked image, which some authors subtract first, cancels in the softmax.
    """
    scorer = network_scorer(model, score, precision)

    def weigh(features: Tensor, rows: Tensor, channels: Tensor, _scores: Tensor) -> Tensor:
        found = channel_scores(scorer, images, features, rows, channels, masks=masks, changes=changes, batch=batch)
        return found.softmax(0)

    return weighted_channel_maps(model, images, pairs, layer, weigh, score=score, max_maps=max_maps, rectify=rectify)
