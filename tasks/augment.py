"""Augmentation of a training batch, drawn from a generator of its own so that a resumed epoch draws the same."""

import torch
from torch import Tensor


def augment(images: Tensor, size: int, generator: torch.Generator, *, vertical: bool) -> Tensor:
    """Crop every image at its own random place and flip it at random.

    Parameters
    ----------
    images
        ``(B, 3, H, W)`` with H and W at least ``size``.
    size
        Side of the crops.
    generator
        Source of randomness.
    vertical
        Also flip upside down.

    Returns
    -------
    Tensor
        ``(B, 3, size, size)``.
    """
    count, _, height, width = images.shape
    top = torch.randint(height - size + 1, (count,), generator=generator)
    left = torch.randint(width - size + 1, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    upside = torch.rand(count, generator=generator) < 0.5
    rows = top[:, None] + torch.arange(size)
    columns = left[:, None] + torch.arange(size)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    if vertical:
        rows = torch.where(upside[:, None], rows.flip(1), rows)
    batch = torch.arange(count)[:, None, None]
    return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
