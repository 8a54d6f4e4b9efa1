"""Boxes around the bright parts of attention maps: where DiPS looks for objects."""

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from methods.refinement import otsu_masks

WITHIN = np.zeros((3, 3, 3), np.int8)
"""Neighbours of a pixel in a stack of masks: the eight of its own mask."""
WITHIN[1] = 1


class RegionBoxes(NamedTuple):
    """Boxes of a batch, by image and map.

    Attributes
    ----------
    image, map
        int64 ``(n,)``: which image of the batch, which of its maps.
    boxes
        int64 ``(n, 4)``: x0, y0, x_last + 1, y_last + 1.
    fallback
        bool ``(n,)``: no box of the image was large enough, this is its largest.
    """

    image: Tensor
    map: Tensor
    boxes: Tensor
    fallback: Tensor


def all_boxes(maps: Tensor) -> RegionBoxes:
    """A box around every 8-connected part of every map above its Otsu threshold; a constant map has none.

    The authors' package that draws boxes is not public: one box per part is [choice].

    Parameters
    ----------
    maps
        ``[B, M, H, W]`` in 0..1.

    Returns
    -------
    RegionBoxes
        In ascending order of image and map, then of the parts' first pixels in raster order; none is a fallback.

    Raises
    ------
    ValueError
        Another shape, no pixel, values outside of 0..1 or not finite.
    TypeError
        Maps that are not floating point.

    Examples
    --------
    >>> found = all_boxes(torch.eye(3)[None, None].repeat_interleave(2, dim=3))
    >>> found.boxes.tolist(), found.map.tolist()
    ([[0, 0, 6, 3]], [0])
    """
    if maps.ndim != 4:
        raise ValueError(f"expected maps [B, M, H, W], got shape {tuple(maps.shape)}")
    masks = otsu_masks(maps.flatten(0, 1)).cpu().numpy()
    parts, count = ndimage.label(masks, WITHIN)
    rows = [
        [*divmod(plane.start, maps.shape[1]), across.start, down.start, across.stop, down.stop]
        for plane, down, across in (ndimage.find_objects(parts) if count else [])
    ]
    found = torch.tensor(rows, dtype=torch.int64).reshape(-1, 6)
    return RegionBoxes(found[:, 0], found[:, 1], found[:, 2:], torch.zeros(len(found), dtype=torch.bool))


def propose_boxes(maps: Tensor, *, min_size: float = 0.75) -> RegionBoxes:
    """Boxes that are large enough; of an image without any, its largest one.

    Parameters
    ----------
    maps
        ``[B, M, H, W]`` in 0..1, such as :func:`methods.proposals.head_maps` gives.
    min_size
        A box counts if its :func:`footprint` covers a larger share of the image. The paper searches .5 to .75 and takes
        .75 for ImageNet.

    Returns
    -------
    RegionBoxes
        By image and map. An image whose maps are all constant has none.

    Raises
    ------
    ValueError
        Another shape, no pixel, values outside of 0..1 or not finite, a share outside of 0..1.
    TypeError
        Maps that are not floating point.

    References
    ----------
    Murtaza et al., "DiPS: Discriminative pseudo-label sampling with self-supervised transformers", 2023.

    Examples
    --------
    >>> maps = torch.zeros(1, 1, 4, 4)
    >>> maps[..., :2] = 1
    >>> propose_boxes(maps, min_size=0.5).fallback.tolist(), propose_boxes(maps, min_size=0.9).fallback.tolist()
    ([False], [True])
    """
    if not 0 <= min_size <= 1:
        raise ValueError(f"expected a share min_size in 0..1, got {min_size}")
    found = all_boxes(maps)
    areas = footprint_areas(found.boxes, (maps.shape[2], maps.shape[3]))
    large = areas > min_size * maps.shape[2] * maps.shape[3]
    served = torch.zeros(len(maps), dtype=torch.bool)
    served[found.image[large]] = True
    fallback = _largest(found.image, areas, len(maps)) & ~served[found.image]
    places = (large | fallback).nonzero().squeeze(1)
    return RegionBoxes(found.image[places], found.map[places], found.boxes[places], fallback[places])


def _largest(image: Tensor, areas: Tensor, images: int) -> Tensor:
    """Marks the first of the largest boxes of each image, bool ``[n]``."""
    highest = torch.zeros(images, dtype=torch.int64).scatter_reduce_(0, image, areas, "amax")
    candidates = (areas == highest[image]).nonzero().squeeze(1)
    first = torch.full((images,), len(areas)).scatter_reduce_(0, image[candidates], candidates, "amin")
    marks = torch.zeros(len(areas), dtype=torch.bool)
    marks[first[first < len(areas)]] = True
    return marks


def footprint(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels that the authors' code paints for a box: one more on every side, without the four corners.

    Parameters
    ----------
    box
        int64 ``(4,)``: x0, y0, x_last + 1, y_last + 1.
    size
        Height and width of the image.

    Returns
    -------
    Tensor
        bool ``size``.

    Examples
    --------
    >>> footprint(torch.tensor([1, 1, 2, 2]), (3, 3)).int().tolist()
    [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    x0, y0, x1, y1 = box.tolist()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[max(0, y0 - 1) : y1 + 1, x0:x1] = True
    mask[y0:y1, max(0, x0 - 1) : x1 + 1] = True
    return mask


def footprint_areas(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels of the footprints of boxes ``[n, 4]``, int64 ``[n]``.

    Examples
    --------
    >>> footprint_areas(torch.tensor([[1, 1, 2, 2], [0, 0, 3, 3]]), (3, 3)).tolist()
    [5, 9]
    """
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(1)
    left, right, above, below = (x0 > 0).long(), (x1 < width).long(), (y0 > 0).long(), (y1 < height).long()
    # Corners of the larger box count only where both of its sides lie inside of the image.
    return (x1 - x0) * (y1 - y0 + above + below) + (y1 - y0) * (left + right)
