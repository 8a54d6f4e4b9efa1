"""RecurSeed's moving target: class maps spread over what resembles them, made to follow the image, and labels of that.

A network that learns class maps learns at the same time what refinement makes of them: maps that are sure of a place
teach the places that look alike.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from methods.refinement import pamr as refining
from methods.refinement import scg as spreading
from methods.refinement.certain_filter import certain_filter
from methods.refinement.pamr import DILATIONS
from methods.refinement.self_correlation import RECURSEED, ScgConstants, self_correlation

ITERATIONS = 10
SMALL = 1e-5
"""A maximum below this is not enlarged to 1."""


def recurseed_target(
    class_maps: Tensor,
    features: Sequence[Tensor],
    images: Tensor,
    classes: Tensor,
    *,
    scg: bool = True,
    pamr: bool = True,
    constants: ScgConstants = RECURSEED,
    iterations: int = ITERATIONS,
    dilations: Sequence[int] = DILATIONS,
    grid: tuple[int, int] | None = None,
    rescale: bool = True,
) -> Tensor:
    r"""Refined maps :math:`M_{rs}`, which class maps and decoder learn.

    .. math:: M_{cam} = \frac{\mathrm{ReLU}(F)}{\max F}, \qquad
        M_{rs} = \frac{P}{\max P}, \quad P = \mathrm{PAMR}\big(\mathrm{SCG}(M_{cam};\, C_1..C_5),\, I\big)

    Parameters
    ----------
    class_maps
        Class maps F before pooling, ``[B, K, h, w]`` floating point, any sign. Their grid is that of SCG: bring them to
        the grid of C3 first, as published.
    features
        Outputs of the encoder's stages, each ``[B, C, h', w']``; brought to the grid of the maps (bilinear). Not looked
        at without ``scg``.
    images
        As shown, not normalised, ``[B, 3, H, W]`` floating point in 0..1; brought to the grid of the maps (bilinear,
        corners aligned, as PAMR's authors train). Not looked at without ``pamr``.
    classes
        Classes of the images, ``[B, K]``, 0 or 1.
    scg
        Spread the maps by :func:`~methods.refinement.scg.scg`.
    pamr
        Refine them by :func:`~methods.refinement.pamr.pamr`. No map of the background: maps do not mix.
    constants
        Of SCG.
    iterations, dilations
        Of PAMR.
    grid
        Height and width of PAMR's grid, which the maps are enlarged to; none: that of the maps. Neighbours are up to 24
        cells away: on a grid of 20 by 20 PAMR averages over all of the image.
    rescale
        Divide by the maximum after PAMR, which averages peaks away.

    Returns
    -------
    Tensor
        ``[B, K, h, w]``, or ``[B, K, *grid]`` after PAMR, float32 in 0..1, without a graph; 0 for absent classes.
        Computed in float32 whatever autocast says: half precision breaks the small guards of SCG.

    Raises
    ------
    ValueError
        Shapes that do not belong together, no feature for SCG, or values that are not finite.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022. The training code was not released: maps of the foreground alone in
    PAMR and the division after it are choices made here.

    Examples
    --------
    >>> maps = torch.tensor([[[[4.0, 2.0, -1.0]], [[9.0, 9.0, 9.0]]]])
    >>> feature = torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]])
    >>> recurseed_target(maps, [feature], torch.zeros(1, 3, 1, 3), torch.tensor([[1, 0]]), pamr=False).tolist()
    [[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]]]
    """
    _require_batch(class_maps, classes, features if scg else (), images if pamr else None)
    if scg and not features:
        raise ValueError("expected features of at least one stage for SCG, got none")

    def refined(maps: Tensor) -> Tensor:
        maps = _by_maximum(maps.relu())
        if scg:
            correlation = _correlation(features, maps.shape[-2:], constants)
            maps = spreading(maps, correlation, foreground=constants.foreground, background=constants.background)
            del correlation
        if pamr:
            maps = maps if grid is None else interpolate(maps, grid, mode="bilinear", align_corners=False)
            shown = interpolate(images.float(), maps.shape[-2:], mode="bilinear", align_corners=True).clamp_(0, 1)
            maps = refining(shown, maps, iterations=iterations, dilations=dilations)
            maps = _by_maximum(maps) if rescale else maps
        return maps

    with torch.no_grad(), torch.autocast(class_maps.device.type, enabled=False):
        return over_present(refined, class_maps.float(), classes, grid if pamr else None).clamp_(0, 1)


def target_labels(
    targets: Tensor, size: tuple[int, int], *, foreground: float = 0.55, background: float = 0.10
) -> Tensor:
    """Labels of refined maps where they are certain, at the size of a decoder's output.

    Parameters
    ----------
    targets
        What :func:`recurseed_target` returned, ``[B, K, h, w]``.
    size
        Height and width of the labels. The maps are enlarged, not the labels: borders lie between cells.
    foreground, background
        Bounds of :func:`~methods.refinement.certain_filter.certain_filter`.

    Returns
    -------
    Tensor
        ``[B, H, W]`` uint8: 0 background, 1..K class, 255 where nothing is certain; never an absent class.

    Raises
    ------
    ValueError
        What the certain filter refuses.

    Examples
    --------
    >>> target_labels(torch.tensor([[[[1.0, 0.0]]]]), (1, 4)).tolist()
    [[[1, 1, 255, 0]]]
    """
    with torch.no_grad():
        if targets.shape[-2:] != size:
            targets = interpolate(targets, size, mode="bilinear", align_corners=False)
        return certain_filter(targets, foreground=foreground, background=background)


def over_present(
    refine: Callable[[Tensor], Tensor], maps: Tensor, classes: Tensor, size: tuple[int, int] | None = None
) -> Tensor:
    """Refine the maps of the classes that are there, leaving out the others: an image shows few of many classes.

    Parameters
    ----------
    refine
        From maps ``[B, n, H, W]`` to as many maps, each from its own map alone; n is the largest number of classes
        that an image has. Images with fewer have maps of zeros in their place.
    maps
        ``[B, K, H, W]``.
    classes
        ``[B, K]``, 0 or 1.

    size
        Height and width of what ``refine`` returns; none: those of the maps.

    Returns
    -------
    Tensor
        ``[B, K, H, W]``, or ``[B, K, *size]``; 0 for absent classes.

    Examples
    --------
    >>> maps = torch.tensor([[[[1.0]], [[2.0]], [[3.0]]]])
    >>> over_present(lambda few: few + len(few[0]), maps, torch.tensor([[1, 0, 1]])).flatten().tolist()
    [3.0, 0.0, 5.0]
    """
    present = classes > 0
    most = int(present.sum(1).max()) if present.numel() else 0
    found = maps.new_zeros(*maps.shape[:2], *(size or maps.shape[2:]))
    if most == 0:
        return found
    first = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    places = first[:, :, None, None].expand(-1, -1, *maps.shape[2:])
    there = present.gather(1, first)[:, :, None, None]
    few = torch.where(there, refine(torch.where(there, maps.gather(1, places), 0)), 0)
    return found.scatter_(1, first[:, :, None, None].expand_as(few), few)


def _correlation(features: Sequence[Tensor], grid: Sequence[int], constants: ScgConstants) -> Tensor:
    """Sum over stages, one after the other: together, the enlarged features take more than the correlation."""
    total: Tensor | None = None
    for stage in features:
        level = interpolate(stage.float(), tuple(grid), mode="bilinear", align_corners=False)
        total = self_correlation(
            level,
            first_threshold=constants.first_threshold,
            second_threshold=constants.second_threshold,
            second_weight=constants.second_weight,
            epsilon=constants.epsilon,
            slides=constants.slides,
            out=total,
        )
    assert total is not None
    return total


def _by_maximum(maps: Tensor) -> Tensor:
    return maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=SMALL)


def _require_batch(class_maps: Tensor, classes: Tensor, features: Sequence[Tensor], images: Tensor | None) -> None:
    if (
        class_maps.ndim != 4
        or classes.shape != class_maps.shape[:2]
        or any(one.ndim != 4 or len(one) != len(class_maps) for one in features)
        or (images is not None and (images.ndim != 4 or len(images) != len(class_maps)))
    ):
        shapes = ", ".join(str(tuple(one.shape)) for one in features)
        raise ValueError(
            "expected class maps [B, K, h, w], classes [B, K], features [B, C, h', w'] and images [B, 3, H, W], got "
            f"{tuple(class_maps.shape)}, {tuple(classes.shape)}, [{shapes}] and "
            f"{None if images is None else tuple(images.shape)}"
        )
