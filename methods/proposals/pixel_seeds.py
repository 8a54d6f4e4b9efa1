"""Pixel seeds of F-CAM: a few pixels of a soft map taken as labels, drawn anew for every step of training.

A strong region is foreground, the weakest pixels are background. One pixel of each at a time keeps a network from
learning the map's mistakes by heart: over many steps it sees what most of the draws agree on.
"""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from methods.refinement.otsu import CONSTANT, otsu_thresholds, quantise

IGNORE = -255


def sample_seeds(
    maps: Tensor,
    *,
    foreground: int = 1,
    background: int = 1,
    background_share: float = 0.1,
    erosion: int = 11,
    dilation: int = 3,
    generator: torch.Generator,
) -> Tensor:
    """Draw seeds from the two regions of every map, uniformly and without replacement.

    Parameters
    ----------
    maps
        ``[B, H, W]`` floating point in 0..1.
    foreground, background
        Pixels to draw from each region, at least 0; all of a region that has less.
    background_share, erosion
        As for :func:`seed_regions`.
    dilation
        Every drawn pixel becomes a square of this side, an odd number; 1 leaves it alone.
    generator
        What is drawn depends on its state alone, not on the device of the maps.

    Returns
    -------
    Tensor
        ``[B, H, W]`` int64: 1 foreground, 0 background, -255 ignore, which includes pixels in squares of both. A map
        with a single level has no seed.

    Raises
    ------
    ValueError
        A negative number of pixels, or what :func:`seed_regions` refuses.
    TypeError
        Maps that are not floating point.

    References
    ----------
    Belharbi et al., F-CAM: Full Resolution Class Activation Maps via Guided Parametric Upscaling, 2022. Erosion and
    dilation are of its configuration, not of its text.

    Examples
    --------
    >>> maps = torch.zeros(1, 1, 20)
    >>> maps[..., :2], maps[..., 2:] = 0.9, torch.linspace(0.1, 0.2, 18)
    >>> sample_seeds(maps, foreground=2, dilation=1, generator=torch.Generator().manual_seed(0)).unique().tolist()
    [-255, 0, 1]
    """
    if min(foreground, background) < 0:
        raise ValueError(f"expected no negative number of seeds, got foreground={foreground}, background={background}")
    _require_odd(dilation, "dilation")
    strong, weak = seed_regions(maps, background_share=background_share, erosion=erosion, generator=generator)
    is_foreground = dilate(_draw(strong, foreground, generator), dilation)
    is_background = dilate(_draw(weak, background, generator), dilation)
    seeds = torch.full(maps.shape, IGNORE, dtype=torch.int64, device=maps.device)
    seeds[is_foreground & ~is_background] = 1
    seeds[is_background & ~is_foreground] = 0
    return seeds


def seed_regions(
    maps: Tensor, *, background_share: float = 0.1, erosion: int = 11, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Where foreground and background seeds of every map may lie.

    Parameters
    ----------
    maps
        ``[B, H, W]`` floating point in 0..1.
    background_share
        Share p of the pixels, the lowest ones, that are background: exactly int(p H W).
    erosion
        Side of the square that Otsu's foreground is eroded with once, an odd number; 1 leaves it alone. What lies
        outside of the image does not erode, and a region that would vanish stays as it is.
    generator
        Draws among equal values at the end of the lowest ones, which rectified maps have many of: the first of them in
        raster order (without a generator) would put all background into the upper rows.

    Returns
    -------
    tuple
        Foreground and background, ``[B, H, W]`` bool, which may overlap. Both are empty for a map with a single level
        of 0..255.

    Raises
    ------
    ValueError
        Not three dimensions, an even or negative ``erosion``, a share outside of [0, 1], or maps outside of [0, 1] or
        not finite.
    TypeError
        Maps that are not floating point.

    Examples
    --------
    >>> strong, weak = seed_regions(torch.tensor([[[0.9, 0.2, 0.1, 0.3]]]), background_share=0.5)
    >>> strong.tolist(), weak.tolist()
    ([[[True, False, False, False]]], [[[False, True, True, False]]])
    """
    if not 0 <= background_share <= 1:
        raise ValueError(f"expected a background share in 0..1, got {background_share}")
    _require_odd(erosion, "erosion")
    thresholds = otsu_thresholds(maps)[:, None, None]
    seeded = thresholds != CONSTANT
    strong = (quantise(maps) > thresholds) & seeded
    eroded = ~dilate(~strong, erosion)
    strong = torch.where(eroded.any(dim=(1, 2), keepdim=True), eroded, strong)
    height, width = maps.shape[1:]
    weak = draw_lowest(maps.flatten(1), int(background_share * height * width), generator).view_as(maps)
    return strong, weak & seeded


def _require_odd(side: int, what: str) -> None:
    if side < 1 or side % 2 == 0:
        raise ValueError(f"expected an odd {what}, 1 for none, got {side}")


def dilate(mask: Tensor, side: int) -> Tensor:
    """Grow a mask ``[B, H, W]`` by a square; pooling pads with minus infinity, so nothing comes in from outside."""
    if side == 1:
        return mask
    rows = max_pool2d(mask[:, None].float(), (side, 1), stride=1, padding=(side // 2, 0))
    return max_pool2d(rows, (1, side), stride=1, padding=(0, side // 2))[:, 0].bool()


def draw_lowest(values: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Mask of exactly ``count`` lowest values of every row of ``[B, N]``."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    last = values.kthvalue(count, dim=1, keepdim=True).values
    below, tied = values < last, values == last
    missing = count - below.sum(dim=1, keepdim=True)
    if not torch.equal(tied.sum(dim=1, keepdim=True), missing):
        # Rare enough to sort: values that occur once need no choice.
        keys = torch.where(tied, _keys(values, generator), torch.inf)
        order = keys.argsort(dim=1, stable=True)
        places = torch.arange(values.shape[1], device=values.device).expand_as(order)
        tied = torch.zeros_like(order).scatter_(1, order, places) < missing
    return below | tied


def _draw(region: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` pixels of every region ``[B, H, W]``, or all where there are less: the largest of random keys."""
    candidates = region.flatten(1)
    count = min(count, candidates.shape[1])
    keys = torch.where(candidates, _keys(candidates, generator), -1.0)
    found, places = keys.topk(count, dim=1)
    return torch.zeros_like(candidates).scatter_(1, places, found >= 0).view_as(region)


def _keys(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random numbers in [0, 1) from the generator's own device; zeros without a generator."""
    if generator is None:
        return torch.zeros(like.shape, device=like.device)
    # Double precision: of a million single ones, many are equal, and equal keys would go by place.
    return torch.rand(like.shape, generator=generator, device=generator.device, dtype=torch.float64).to(like.device)
