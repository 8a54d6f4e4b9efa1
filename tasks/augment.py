"""Augmentation of a training batch, drawn from a generator of its own so that a resumed epoch draws the same.

What is drawn is kept apart from what it is applied to: an image, its soft map and its boxes turn alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """A square crop of every image of a batch, perhaps flipped: places of the crops, sides in pixels."""

    top: Tensor
    left: Tensor
    mirrored: Tensor
    upside: Tensor
    size: int

    def crop(self, images: Tensor) -> Tensor:
        """Crops ``(B, C, size, size)`` of images ``(B, C, H, W)``."""
        rows = self.top[:, None] + torch.arange(self.size)
        columns = self.left[:, None] + torch.arange(self.size)
        columns = torch.where(self.mirrored[:, None], columns.flip(1), columns)
        rows = torch.where(self.upside[:, None], rows.flip(1), rows)
        batch = torch.arange(len(images))[:, None, None]
        return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes ``(B, 4)`` int64 x0, y0, x1, y1 (x1, y1 outside) of the images as they lie in the crops, cut off there.

        A box outside of its crop becomes empty: x1 <= x0 or y1 <= y0.
        """
        shift = torch.stack([self.left, self.top], dim=1).repeat(1, 2)
        x0, y0, x1, y1 = (boxes - shift).clamp(0, self.size).unbind(1)
        size = self.size
        x0, x1 = torch.where(self.mirrored, size - x1, x0), torch.where(self.mirrored, size - x0, x1)
        y0, y1 = torch.where(self.upside, size - y1, y0), torch.where(self.upside, size - y0, y1)
        return torch.stack([x0, y0, x1, y1], dim=1)


def draw_views(
    count: int, loaded: tuple[int, int], size: int, generator: torch.Generator, *, flip: bool = True, vertical: bool
) -> Views:
    """Draw a crop and flips for every image of a batch.

    Parameters
    ----------
    count
        Number of images.
    loaded
        Height and width of the images, at least ``size``.
    size
        Side of the crops.
    generator
        Source of randomness.
    flip
        Mirror left and right at random.
    vertical
        Also flip upside down.
    """
    top = torch.randint(loaded[0] - size + 1, (count,), generator=generator)
    left = torch.randint(loaded[1] - size + 1, (count,), generator=generator)
    mirrored = (torch.rand(count, generator=generator) < 0.5) & flip
    upside = (torch.rand(count, generator=generator) < 0.5) & vertical
    return Views(top, left, mirrored, upside, size)


def augment(images: Tensor, size: int, generator: torch.Generator, *, vertical: bool) -> Tensor:
    """Crop every image ``(B, C, H, W)`` at its own random place and flip it at random: ``(B, C, size, size)``."""
    views = draw_views(len(images), (images.shape[2], images.shape[3]), size, generator, vertical=vertical)
    return views.crop(images)
