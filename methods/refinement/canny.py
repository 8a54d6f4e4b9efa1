"""Edges of an image: Canny's detector after a small blur, in integers, the same to the bit as the one published.

EdgePredictMix cuts an image into super pixels along these edges. Its authors call OpenCV; what that computes is written
down here, so that a run without OpenCV finds the same edges.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import pad

LOW, HIGH = 10, 100
GREY_WEIGHTS, GREY_SHIFT = (9798, 19235, 3735), 15
BLUR = (1, 4, 6, 4, 1)
TANGENT, TANGENT_SHIFT = 13573, 15
"""tan(22.5 degrees) in 15 bits: flatter gradients count as horizontal."""


def canny(images: Tensor) -> Tensor:
    r"""Pixels on an edge.

    Grey values, blurred with :math:`[1, 4, 6, 4, 1]^2 / 256`, have 3x3 Sobel gradients :math:`g_x, g_y` and magnitudes
    :math:`m = |g_x| + |g_y|`. A pixel with m > 10 that is a maximum along its gradient (rounded to 45 degrees) is a
    candidate; 8-connected groups of candidates with a pixel of m > 100 are edges.

    Parameters
    ----------
    images
        ``[B, 3, H, W]`` RGB or ``[B, 1, H, W]`` grey, uint8. For the edges of soft maps: ``round(255 * max_c M)``.

    Returns
    -------
    Tensor
        ``[B, H, W]`` bool.

    Raises
    ------
    ValueError
        Another number of dimensions or channels.
    TypeError
        Images that are not uint8.

    References
    ----------
    J. Canny, A Computational Approach to Edge Detection, 1986; Jo et al., RecurSeed and EdgePredictMix, 2022.

    Examples
    --------
    >>> image = torch.zeros(1, 1, 3, 8, dtype=torch.uint8)
    >>> image[..., 4:] = 255
    >>> canny(image).int()[0, 1].tolist()
    [0, 0, 0, 1, 0, 0, 0, 0]
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected images [B, 3, H, W] or [B, 1, H, W], got shape {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images in 0..255, got {images.dtype}")
    batch, _, height, width = images.shape
    edges = torch.zeros(batch, height, width, dtype=torch.bool, device=images.device)
    if edges.numel() == 0:
        return edges
    for row, image in enumerate(images):
        across, down = _sobel(_blur(_grey(image)))
        magnitude = across.abs() + down.abs()
        candidates = _thin(across, down, magnitude) & (magnitude > LOW)
        edges[row] = _connected(candidates, magnitude > HIGH)
    return edges


def _grey(image: Tensor) -> Tensor:
    channels = image.to(torch.int32)
    if len(channels) == 1:
        return channels[0]
    total = sum(weight * channel for weight, channel in zip(GREY_WEIGHTS, channels))
    return (torch.as_tensor(total) + (1 << GREY_SHIFT - 1)) >> GREY_SHIFT


def _blur(grey: Tensor) -> Tensor:
    reach = len(BLUR) // 2
    height, width = grey.shape
    grey = grey[_mirrored(height, reach)][:, _mirrored(width, reach)]
    rows = torch.stack([weight * grey[i : i + height] for i, weight in enumerate(BLUR)]).sum(0, dtype=torch.int32)
    both = torch.stack([weight * rows[:, i : i + width] for i, weight in enumerate(BLUR)]).sum(0, dtype=torch.int32)
    return (both + 128) >> 8


def _mirrored(size: int, reach: int) -> list[int]:
    """Positions ``-reach .. size + reach - 1``, reflected at the outermost pixels (which do not repeat)."""
    if size == 1:
        return [0] * (1 + 2 * reach)
    period = 2 * (size - 1)
    return [min(i % period, period - i % period) for i in range(-reach, size + reach)]


def _sobel(grey: Tensor) -> tuple[Tensor, Tensor]:
    padded = pad(grey[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0].to(torch.int32)
    above, middle, below = padded[:-2], padded[1:-1], padded[2:]
    smooth, slope = above + 2 * middle + below, below - above
    return smooth[:, 2:] - smooth[:, :-2], slope[:, :-2] + 2 * slope[:, 1:-1] + slope[:, 2:]


def _thin(across: Tensor, down: Tensor, magnitude: Tensor) -> Tensor:
    """Maxima along the gradient; which of two equal neighbours stays is OpenCV's choice."""
    height, width = magnitude.shape
    around = pad(magnitude, (1, 1, 1, 1))

    def at(y: int, x: int) -> Tensor:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    flat, steep = across.abs() * TANGENT, down.abs() << TANGENT_SHIFT
    horizontal = (magnitude > at(0, -1)) & (magnitude >= at(0, 1))
    vertical = (magnitude > at(-1, 0)) & (magnitude >= at(1, 0))
    falling = (magnitude > at(-1, -1)) & (magnitude > at(1, 1))
    rising = (magnitude > at(-1, 1)) & (magnitude > at(1, -1))
    diagonal = torch.where((across ^ down) < 0, rising, falling)
    inclined = torch.where(steep > flat + (across.abs() << TANGENT_SHIFT + 1), vertical, diagonal)
    return torch.where(steep < flat, horizontal, inclined)


def _connected(candidates: Tensor, strong: Tensor) -> Tensor:
    groups, count = ndimage.label(candidates.cpu().numpy(), structure=np.ones((3, 3)))
    keep = np.zeros(count + 1, dtype=bool)
    keep[groups[(candidates & strong).cpu().numpy()]] = True
    keep[0] = False
    return torch.from_numpy(keep[groups])
