"""Pixel-adaptive mask refinement (PAMR): average maps over neighbours of like colour, again and again."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.refinement.checks import require_finite
from methods.refinement.neighbour_matrix import neighbour_matrix, repeated_product, sparse_products

DILATIONS = (1, 2, 4, 8, 12, 24)
EPSILON, SPREAD = 1e-8, 0.1
STRIP_BYTES = 2**20
"""Rows are averaged in strips of maps of about this size, so that a strip stays in cache over all its neighbours."""
MANY_MAPS = 8
"""From so many maps on it pays to build a sparse matrix of the weights."""
DIRECTIONS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def pamr(
    images: Tensor,
    masks: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
    tile: int | None = None,
) -> Tensor:
    r"""Refine maps so that they follow an image's edges.

    Every pixel is replaced by a weighted mean of its 8 neighbours at each of several distances, ``iterations`` times:

    .. math:: m(p) \leftarrow \sum_n \alpha_n(p)\, m(n), \qquad \alpha(p) = \mathrm{softmax}_n\;
        \mathrm{mean}_c \frac{-|I_c(p) - I_c(n)|}{10^{-8} + 0.1\,\sigma_c(p)}

    where :math:`\sigma_c` is the unbiased standard deviation over the neighbours and, once per distance, the pixel
    itself. Borders are replicated. Channels are independent: leave out classes that are not there.

    Parameters
    ----------
    images
        ``[B, 3, H, W]`` in 0..1, not normalised.
    masks
        ``[B, K, H, W]``.
    iterations
        How often maps are averaged.
    dilations
        Distances in pixels.
    tile
        Refine tiles of this side with a margin of ``iterations * max(dilations)``, which is as far as anything reaches:
        the same result, with the memory of a tile. Default: the whole image at once, 4 * 8 * len(dilations) bytes a
        pixel; thrice that with 8 maps and more, which is faster for them.

    Returns
    -------
    Tensor
        ``[B, K, H, W]`` float32, inside of the range of each map; without a gradient.

    Raises
    ------
    ValueError
        Shapes that do not agree, values that are not finite, images outside of 0..1, or options below 1.

    References
    ----------
    Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020.

    Examples
    --------
    >>> image = torch.zeros(1, 3, 1, 6)
    >>> image[..., 3:] = 1
    >>> noisy = torch.tensor([[[[0.0, 0.3, 0.0, 1.0, 0.7, 1.0]]]])
    >>> [round(value, 1) for value in pamr(image, noisy, dilations=[1]).flatten().tolist()]
    [0.1, 0.1, 0.1, 0.9, 0.9, 0.9]
    """
    _check(images, masks, iterations, dilations, tile)
    images, masks = images.detach().to(torch.float32), masks.detach().to(torch.float32)
    if masks.numel() == 0 or iterations == 0:
        return masks.clone()
    if tile is None:
        return _refine(images, masks, iterations, dilations)
    found = torch.empty_like(masks)
    margin = iterations * max(dilations)
    height, width = masks.shape[2:]
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            rows, columns = _grown(top, tile, margin, height), _grown(left, tile, margin, width)
            part = _refine(images[:, :, rows, columns], masks[:, :, rows, columns], iterations, dilations)
            inner = part[:, :, top - rows.start :, left - columns.start :][:, :, :tile, :tile]
            found[:, :, top : top + tile, left : left + tile] = inner
    return found


def local_spread(images: Tensor, dilations: Sequence[int]) -> Tensor:
    """Unbiased standard deviation ``[B, C, H, W]`` over a pixel's neighbours and, once per distance, itself."""
    count = 9 * len(dilations)
    total = len(dilations) * images
    for neighbour in _neighbours(images, dilations):
        total += neighbour
    mean = total / count
    squares = len(dilations) * (images - mean).square()
    for neighbour in _neighbours(images, dilations):
        squares += (neighbour - mean).square_()
    return squares.div_(count - 1).sqrt_()


def colour_affinity(images: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weights ``[B, 8 D, H, W]`` of a pixel's neighbours, which sum to 1; by distance, then row by row."""
    divisor = EPSILON + SPREAD * local_spread(images, dilations)
    batch, channels, height, width = images.shape
    found = images.new_empty(batch, len(DIRECTIONS) * len(dilations), height, width)
    for number, neighbour in enumerate(_neighbours(images, dilations)):
        torch.sum((images - neighbour).abs_().div_(divisor), dim=1, out=found[:, number])
    found.div_(-channels)
    # A softmax in place: the weights are the largest thing here.
    found.sub_(found.amax(1, keepdim=True)).exp_()
    return found.div_(found.sum(1, keepdim=True))


def _neighbours(images: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    height, width = images.shape[2:]
    for distance in dilations:
        padded = pad(images, [distance] * 4, mode="replicate")
        for y, x in DIRECTIONS:
            yield padded[:, :, distance * (1 + y) :, distance * (1 + x) :][:, :, :height, :width]


def _refine(images: Tensor, masks: Tensor, iterations: int, dilations: Sequence[int]) -> Tensor:
    if masks.shape[1] >= MANY_MAPS and _is_sparse(masks, dilations):
        return torch.stack(
            [
                repeated_product(_matrix(image, dilations), maps, iterations)
                for image, maps in zip(images, masks, strict=True)
            ]
        )
    weights = colour_affinity(images, dilations)
    found = masks
    for _ in range(iterations):
        found = _average(found, weights, dilations)
    return found


def _is_sparse(masks: Tensor, dilations: Sequence[int]) -> bool:
    weights = len(DIRECTIONS) * len(dilations) * masks[0, 0].numel()
    return masks.device.type == "cpu" and weights < 2**31 and sparse_products()


def _matrix(image: Tensor, dilations: Sequence[int]) -> Tensor:
    offsets = [(distance * y, distance * x) for distance in dilations for y, x in DIRECTIONS]
    return neighbour_matrix(colour_affinity(image[None], dilations)[0], offsets)


def _average(maps: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """One step: the weighted mean of every pixel's neighbours, strip by strip."""
    height, width = maps.shape[2:]
    far = max(dilations)
    padded = pad(maps, [far] * 4, mode="replicate")
    found = torch.empty_like(maps)
    rows = max(1, STRIP_BYTES // max(1, 4 * maps.shape[0] * maps.shape[1] * width))
    offsets = [(far + distance * y, far + distance * x) for distance in dilations for y, x in DIRECTIONS]
    for top in range(0, height, rows):
        strip = found[:, :, top : top + rows].zero_()
        depth = strip.shape[2]
        for number, (y, x) in enumerate(offsets):
            source = padded[:, :, top + y : top + y + depth, x : x + width]
            strip.addcmul_(source, weights[:, number, None, top : top + rows])
    return found


def _grown(start: int, size: int, margin: int, limit: int) -> slice:
    return slice(max(0, start - margin), min(limit, start + size + margin))


def _check(images: Tensor, masks: Tensor, iterations: int, dilations: Sequence[int], tile: int | None) -> None:
    if images.ndim != 4 or masks.ndim != 4 or images[:, 0].shape != masks.shape[:1] + masks.shape[2:]:
        raise ValueError(
            "expected images [B, 3, H, W] and masks [B, K, H, W] of one size, got "
            f"{tuple(images.shape)} and {tuple(masks.shape)}"
        )
    if iterations < 0 or not dilations or min(dilations) < 1 or (tile is not None and tile < 1):
        raise ValueError(
            "expected iterations >= 0, dilations >= 1 (at least one) and a tile >= 1, got "
            f"iterations={iterations}, dilations={tuple(dilations)}, tile={tile}"
        )
    require_finite(images, "images")
    require_finite(masks, "masks")
    if images.numel() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise ValueError(
            f"expected images in 0..1, got {float(images.min()):.3g}..{float(images.max()):.3g}; divide 8-bit by 255"
        )
