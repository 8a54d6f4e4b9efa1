"""Pixels drawn from a box by its attention, and from the darkest part of an image: what DiPS teaches a network with."""

import torch
from torch import Tensor

from methods.proposals.pixel_seeds import IGNORE, dilate, draw_lowest
from methods.refinement.checks import require_finite


def sample_pixels(
    maps: Tensor,
    boxes: Tensor,
    *,
    foreground: int,
    background: int,
    foreground_share: float,
    background_share: float,
    dilation: int = 3,
    generator: torch.Generator,
) -> Tensor:
    """Draw pixels of an object from its box, and of the background from the whole image.

    Parameters
    ----------
    maps
        ``[B, H, W]`` attention, not negative.
    boxes
        int64 ``[B, 4]``: x0, y0, x_last + 1, y_last + 1; an empty one gives no foreground.
    foreground, background
        How many to draw, without replacement: foreground with a probability proportional to the map, background
        uniformly. All candidates where there are fewer.
    foreground_share
        The candidates are this share of the box, int(share |box|) pixels, those with the highest values; among equal
        ones at their end it is drawn [choice].
    background_share
        Those of the background are int(share H W) pixels of the image with the lowest values. They may lie in the box,
        as in the public code; the paper's text says outside.
    dilation
        Every drawn pixel becomes a square of this side, an odd number; 1 leaves it alone.
    generator
        What is drawn depends on its state alone.

    Returns
    -------
    Tensor
        int64 ``[B, H, W]``: 1 foreground, 0 background, -255 elsewhere and where squares of both meet.

    Raises
    ------
    ValueError
        Other shapes, values below 0 or not finite, numbers out of range.

    References
    ----------
    Murtaza et al., "DiPS: Discriminative pseudo-label sampling with self-supervised transformers", 2023.

    Examples
    --------
    >>> seeds = sample_pixels(
    ...     torch.tensor([[[0.9, 0.2, 0.1]]]), torch.tensor([[0, 0, 2, 1]]), foreground=1, background=1,
    ...     foreground_share=0.5, background_share=0.4, dilation=1, generator=torch.Generator(),
    ... )
    >>> seeds.tolist()
    [[[1, -255, 0]]]
    """
    _check(maps, boxes, foreground, background, foreground_share, background_share)
    if dilation < 1 or dilation % 2 == 0:
        raise ValueError(f"expected an odd dilation, 1 for none, got {dilation}")
    inside = in_boxes(boxes.to(maps.device), (maps.shape[1], maps.shape[2]))
    counts = (foreground_share * inside.flatten(1).sum(1).double()).long()
    strong = _highest(maps, inside, counts, generator)
    lowest = int(background_share * maps.shape[1] * maps.shape[2])
    weak = draw_lowest(maps.flatten(1), lowest, generator).view_as(maps)
    drawn = dilate(_draw(strong, maps, foreground, generator), dilation)
    dark = dilate(_draw(weak, torch.ones_like(maps), background, generator), dilation)
    seeds = torch.full(maps.shape, IGNORE, dtype=torch.int64, device=maps.device)
    seeds[dark & ~drawn], seeds[drawn & ~dark] = 0, 1
    return seeds


def in_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels inside of boxes ``[B, 4]``, bool ``[B, H, W]``.

    Examples
    --------
    >>> in_boxes(torch.tensor([[0, 0, 2, 1]]), (1, 3)).tolist()
    [[[True, True, False]]]
    """
    rows = torch.arange(size[0], device=boxes.device)[None, :, None]
    columns = torch.arange(size[1], device=boxes.device)[None, None, :]
    x0, y0, x1, y1 = (one[:, None, None] for one in boxes.unbind(1))
    return (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)


def _highest(maps: Tensor, inside: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """The ``counts[b]`` highest pixels of each box, drawn among equal ones at their end."""
    values = torch.where(inside, maps, -1).flatten(1)
    falling = values.sort(dim=1, descending=True).values
    last = falling.gather(1, (counts - 1).clamp(min=0)[:, None])
    above = values > last
    tied = (values == last) & inside.flatten(1)
    missing = counts[:, None] - above.sum(dim=1, keepdim=True)
    if not torch.equal(tied.sum(dim=1, keepdim=True), missing):
        # Saturated and coarse maps: the first in raster order would put the whole object into the upper rows.
        keys = torch.where(tied, _uniform(values, generator), torch.inf)
        order = keys.argsort(dim=1)
        places = torch.arange(values.shape[1], device=maps.device).expand_as(order)
        tied = torch.zeros_like(order).scatter_(1, order, places) < missing
    return ((above | tied) & (counts[:, None] > 0)).view_as(inside)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=generator.device, dtype=torch.float64).to(like.device)


def _draw(candidates: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` candidates without replacement, one after the other in proportion to the weights of those left.

    The largest of log w + Gumbel noise are exactly such a draw.
    """
    flat = candidates.flatten(1)
    noise = _uniform(flat, generator)
    # A candidate without weight comes after all others, but before none at all.
    keys = weights.flatten(1).double().clamp(min=1e-30).log() - (-noise.clamp(min=1e-300).log()).log()
    keys = torch.where(flat, keys, -torch.inf)
    found, places = keys.topk(min(count, flat.shape[1]), dim=1)
    return torch.zeros_like(flat).scatter_(1, places, found > -torch.inf).view_as(candidates)


def _check(
    maps: Tensor, boxes: Tensor, foreground: int, background: int, foreground_share: float, background_share: float
) -> None:
    if maps.ndim != 3 or boxes.shape != (len(maps), 4):
        raise ValueError(
            f"expected maps [B, H, W] and boxes [B, 4], got shapes {tuple(maps.shape)} and {tuple(boxes.shape)}"
        )
    require_finite(maps, "maps")
    if maps.numel() and maps.min() < 0:
        raise ValueError(f"expected maps that are not negative, got {float(maps.min()):g}")
    if min(foreground, background) < 0 or not (0 <= foreground_share <= 1 and 0 <= background_share <= 1):
        raise ValueError(
            f"expected numbers of at least 0 and shares in 0..1, got {foreground}, {background}, {foreground_share}, "
            f"{background_share}"
        )
