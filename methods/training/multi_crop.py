"""Views of a batch for self-distillation: random crops of any size, flipped and with other light, all images at once.

What is drawn is drawn on the CPU from a generator of its own, so that a resumed epoch sees the same views, and applied
wherever the images are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ASPECT = (3 / 4, 4 / 3)
BLUR_RADIUS = 4
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Jitter:
    """How much the light of a view may change; 0 everywhere leaves it as it is."""

    strength: float = 0.4
    """Brightness and contrast are multiplied by 1 - strength to 1 + strength, saturation by half as much."""
    grey: float = 0.2
    """Probability of losing all colour."""
    blur: float = 0.5
    """Probability of a Gaussian blur of 0.1 to 2 pixels."""
    invert: float = 0.0
    """Probability that dark and bright change places."""

    def __post_init__(self) -> None:
        if not all(0 <= one <= 1 for one in (self.strength, self.grey, self.blur, self.invert)):
            raise ValueError(f"expected strength and probabilities in 0..1, got {self}")


def multi_crop(
    images: Tensor,
    size: int,
    scale: tuple[float, float],
    generator: torch.Generator,
    *,
    count: int = 1,
    vertical: bool = False,
    jitter: Jitter | None = None,
) -> Tensor:
    """Random views of every image of a batch.

    Parameters
    ----------
    images
        ``[B, 3, H, W]`` floating point in 0..1.
    size
        Side of the views.
    scale
        Smallest and largest share of an image's area that a view covers, 0 < low <= high <= 1.
    generator
        Source of randomness, on the CPU.
    count
        Views of an image.
    vertical
        Also flip upside down.
    jitter
        Change of light; none leaves it as it is.

    Returns
    -------
    Tensor
        ``[count, B, 3, size, size]`` in 0..1.

    Raises
    ------
    ValueError
        Images of another shape or not floating point, or shares out of order.

    Examples
    --------
    >>> multi_crop(torch.rand(2, 3, 8, 9), 4, (0.5, 1.0), torch.Generator(), count=3).shape
    torch.Size([3, 2, 3, 4, 4])
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"expected floating point images [B, 3, H, W], got {images.dtype} {tuple(images.shape)}")
    windows = [
        draw_windows(len(images), (images.shape[2], images.shape[3]), scale, generator, vertical=vertical)
        for _ in range(count)
    ]
    views = [cut(images, one, size) for one in windows]
    if jitter is not None:
        views = [relight(one, jitter, generator) for one in views]
    return torch.stack(views) if views else images.new_zeros(0, len(images), 3, size, size)


def draw_windows(
    count: int, shape: tuple[int, int], scale: tuple[float, float], generator: torch.Generator, *, vertical: bool
) -> Tensor:
    """Windows ``[count, 4]`` as centre x, y and half extent x, y, of an image that spans -1..1; negative: flipped.

    The area is drawn evenly from ``scale``, the ratio of width to height evenly on a logarithmic scale from 3/4 to 4/3;
    a window that would stick out is cut to the image.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise ValueError(f"expected shares 0 < low <= high <= 1, got {scale}")
    area = low + (high - low) * torch.rand(count, generator=generator)
    ends = math.log(ASPECT[0]), math.log(ASPECT[1])
    ratio = (ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=generator)).exp()
    height, width = shape
    half = torch.stack([(area * ratio * height / width).sqrt(), (area / ratio * width / height).sqrt()], dim=1).clamp(
        max=1
    )
    centre = (1 - half) * (2 * torch.rand(count, 2, generator=generator) - 1)
    flipped = torch.rand(count, 2, generator=generator) < torch.tensor([0.5, 0.5 if vertical else 0.0])
    return torch.cat([centre, torch.where(flipped, -half, half)], dim=1)


def cut(images: Tensor, windows: Tensor, size: int) -> Tensor:
    """Windows of images as views ``[B, 3, size, size]``, bilinear; a window of the whole image is the image."""
    x, y, half_x, half_y = windows.unbind(1)
    zero = torch.zeros_like(x)
    rows = [torch.stack([half_x, zero, x], dim=1), torch.stack([zero, half_y, y], dim=1)]
    affine = torch.stack(rows, dim=1).to(images)
    grid = F.affine_grid(affine, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def relight(views: Tensor, jitter: Jitter, generator: torch.Generator) -> Tensor:
    """Views ``[B, 3, H, W]`` in 0..1 with brightness, contrast, saturation and sharpness of their own."""
    drawn = torch.rand(len(views), 7, generator=generator)
    change = 2 * drawn[:, :3] - 1
    change = 1 + jitter.strength * change * torch.tensor([1.0, 1.0, 0.5])
    change[drawn[:, 3] < jitter.grey, 2] = 0
    brightness, contrast, saturation = change.to(views)[:, :, None, None, None].unbind(1)
    turned = (drawn[:, 6] < jitter.invert).to(views.device)
    views = torch.where(turned[:, None, None, None], 1 - views, views)
    weights = torch.tensor(GREY).to(views).view(1, 3, 1, 1)
    views = views * brightness
    mean = (views * weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    views = mean + (views - mean) * contrast
    grey = (views * weights).sum(dim=1, keepdim=True)
    views = (grey + (views - grey) * saturation).clamp(0, 1)
    chosen = (drawn[:, 4] < jitter.blur).nonzero().ravel().to(views.device)
    if len(chosen):
        sigmas = (0.1 + 1.9 * drawn[:, 5]).to(views)[chosen]
        views = views.index_copy(0, chosen, blurred(views[chosen], sigmas))
    return views


def blurred(views: Tensor, sigmas: Tensor) -> Tensor:
    """Views ``[B, C, H, W]`` under Gaussians of their own width ``[B]``, in pixels; cut off at 4, edges repeated."""
    count, channels, height, width = views.shape
    places = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1).to(views)
    kernels = torch.softmax(-(places**2) / (2 * sigmas[:, None] ** 2), dim=1)
    kernels = kernels.repeat_interleave(channels, dim=0)[:, None, :]
    flat = F.pad(views.reshape(1, count * channels, height, width), [BLUR_RADIUS] * 4, mode="replicate")
    flat = F.conv2d(flat, kernels[:, :, :, None], groups=count * channels)
    return F.conv2d(flat, kernels[:, :, None, :], groups=count * channels).reshape(views.shape)
