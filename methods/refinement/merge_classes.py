"""One label map from the soft maps of an image's classes, each with its own threshold.

The layerized Grad-CAM paper does not say how several classes of one image share its pixels. Here a pixel belongs to the
class whose map is strongest there among those that pass their own threshold, and how clearly it does so is kept.
"""

import torch
from torch import Tensor

from methods.refinement.otsu import CONSTANT, quantise

IGNORE = 255


def merge_classes(maps: Tensor, thresholds: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    r"""Labels and confidence of one image.

    A class is eligible at a pixel of score s where :math:`\lfloor 255 s \rfloor` exceeds its threshold. With
    :math:`t = (\text{threshold} + 1) / 255`, the margin of a pixel is

    .. math::
        \min\left(\frac{s - t}{1 - t},\; s - s_2\right) \text{ for a class,} \qquad
        \min_k \frac{t_k - s_k}{t_k} \text{ for background,}

    where :math:`s_2` is the best score of another eligible class; confidence is 255 times the margin, rounded.

    Parameters
    ----------
    maps
        Normalised maps of the image's classes, ``(K, H, W)`` floating point in [0, 1]; K may be 0.
    thresholds
        ``(K,)`` int64 on the 0..255 grid. -1 (a constant map, see :mod:`methods.refinement.otsu`): the class is in the
        image but cannot be located, so what is left over may be it and becomes 255 instead of background.
    classes
        Their ids, ``(K,)`` int64, different, 1..254.

    Returns
    -------
    labels, confidence
        ``(H, W)`` uint8 each. Labels: 0 background, 1..254 class, 255 unknown (confidence 0). Equal scores: the first
        class. An image without classes is background with confidence 255.

    Raises
    ------
    ValueError
        Shapes that do not agree, ids or thresholds out of range, ids given twice, maps outside of [0, 1] or not finite.
    TypeError
        Maps that are not floating point.

    References
    ----------
    Layerized and truncated Grad-CAM; the merge is this project's choice.

    Examples
    --------
    >>> maps = torch.tensor([[[1.0, 0.6, 0.0]], [[0.0, 0.8, 0.3]]])
    >>> labels, confidence = merge_classes(maps, torch.tensor([101, 101]), torch.tensor([7, 3]))
    >>> labels.tolist(), confidence.tolist()
    ([[7, 3, 0]], [[255, 51, 64]])
    """
    _check(maps, thresholds, classes)
    height, width = maps.shape[1:]
    labels = torch.zeros(height, width, dtype=torch.uint8, device=maps.device)
    located = thresholds != CONSTANT
    if not located.any():
        # Without any class all is background for sure; with classes that cannot be located nothing is known.
        labels += IGNORE if len(classes) else 0
        return labels, torch.full_like(labels, 0 if len(classes) else 255)

    complete = bool(located.all())
    if not complete:
        maps, thresholds, classes = maps[located], thresholds[located], classes[located]
    bounds = ((thresholds + 1).to(maps.dtype) / 255)[:, None, None]
    eligible = quantise(maps) > thresholds[:, None, None]
    scores = torch.where(eligible, maps, -1.0)
    best, winner = scores.max(dim=0)
    foreground = best >= 0
    labels = torch.where(foreground, classes[winner], 0 if complete else IGNORE).to(torch.uint8)
    inside = _foreground_margin(scores, best, bounds.flatten()[winner])
    outside = ((bounds - maps) / bounds).amin(dim=0) if complete else torch.zeros_like(best)
    margin = torch.where(foreground, inside, outside)
    return labels, torch.round(255 * margin.clamp(0, 1)).to(torch.uint8)


def _foreground_margin(scores: Tensor, best: Tensor, bound: Tensor) -> Tensor:
    # A threshold of 254 leaves no room above it: the numerator is 0 there too, so any positive divisor will do.
    margin = (best - bound) / (1 - bound).clamp(min=1 / 255)
    if len(scores) == 1:
        return margin
    second = scores.topk(2, dim=0).values[1]
    return torch.where(second >= 0, torch.minimum(margin, best - second), margin)


def _check(maps: Tensor, thresholds: Tensor, classes: Tensor) -> None:
    if maps.ndim != 3 or thresholds.shape != maps.shape[:1] or classes.shape != maps.shape[:1]:
        raise ValueError(
            "expected maps (K, H, W), thresholds (K,) and classes (K,), got shapes "
            f"{tuple(maps.shape)}, {tuple(thresholds.shape)} and {tuple(classes.shape)}"
        )
    ids, levels = classes.tolist(), thresholds.tolist()
    if len(set(ids)) < len(ids) or any(not 1 <= one < IGNORE for one in ids):
        raise ValueError(f"expected different class ids 1 to 254, got {ids}")
    if any(not CONSTANT <= one <= 255 for one in levels):
        raise ValueError(f"expected thresholds -1 to 255, got {levels}")
    quantise(maps[thresholds == CONSTANT])
