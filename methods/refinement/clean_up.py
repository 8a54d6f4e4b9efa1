"""Clean-up: drop specks of a label map and close the holes in what is left."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import measure
from torch import Tensor

IGNORE = 255
connected: Callable[..., NDArray[np.int64]] = measure.label
"""scikit-image's labelling of connected pixels of equal value, which comes without types."""


def clean_up(labels: Tensor, *, min_share: float = 0.001, fill_holes: bool = True) -> Tensor:
    """Make small components background, then fill holes.

    A component is an 8-connected group of pixels of one class. A hole is a 4-connected group of background pixels that
    does not touch the border of the image and whose 4-neighbours all are of one class: it takes that class. Background
    that also touches ignored pixels or two classes may be real and stays.

    Parameters
    ----------
    labels
        ``[B, H, W]`` uint8: 0 background, 1..254 class, 255 ignore.
    min_share
        Components of fewer than ``min_share * H * W`` pixels become background; 0 keeps all. In 0..1.
    fill_holes
        Whether to fill holes. Those that a dropped component leaves are filled too.

    Returns
    -------
    Tensor
        ``[B, H, W]`` uint8. Ignored pixels stay ignored, no other pixel becomes ignored, and no class appears that its
        image did not have; one whose components all are small disappears.

    Raises
    ------
    ValueError
        Not three dimensions, or a share outside of 0..1.
    TypeError
        Labels that are not uint8.

    Examples
    --------
    >>> labels = torch.zeros(1, 5, 6, dtype=torch.uint8)
    >>> labels[0, 1:4, 1:4] = 7
    >>> labels[0, 2, 2] = 0
    >>> labels[0, 4, 5] = 3
    >>> clean_up(labels, min_share=0.1)[0].tolist()[1:]
    [[0, 7, 7, 7, 0, 0], [0, 7, 7, 7, 0, 0], [0, 7, 7, 7, 0, 0], [0, 0, 0, 0, 0, 0]]
    """
    if labels.ndim != 3:
        raise ValueError(f"expected labels [B, H, W], got shape {tuple(labels.shape)}")
    if labels.dtype != torch.uint8:
        raise TypeError(f"expected uint8 labels, got {labels.dtype}")
    if not 0 <= min_share <= 1:
        raise ValueError(f"expected min_share in 0..1, got {min_share}")
    cleaned = labels.clone()
    if labels.numel() == 0:
        return cleaned
    for row, image in enumerate(labels.cpu().numpy()):
        found = _drop_small(image, min_share * image.size)
        if fill_holes:
            found = _fill_holes(found)
        cleaned[row] = torch.from_numpy(found)
    return cleaned


def _drop_small(labels: NDArray[np.uint8], least: float) -> NDArray[np.uint8]:
    components = connected(labels, background=0, connectivity=2)
    small = np.bincount(components.ravel()) < least
    small[0] = False
    return np.where(small[components] & (labels != IGNORE), 0, labels).astype(np.uint8)


def _fill_holes(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    regions = connected(labels == 0, connectivity=1)
    lowest = np.full(int(regions.max()) + 1, IGNORE, dtype=np.uint8)
    highest = np.zeros_like(lowest)
    # Beyond the border is unknown, as ignored pixels are: what touches either is no hole.
    around = np.pad(labels, 1, constant_values=IGNORE)
    for neighbour in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        beside = (labels == 0) & (neighbour != 0)
        np.minimum.at(lowest, regions[beside], neighbour[beside])
        np.maximum.at(highest, regions[beside], neighbour[beside])
    filling = np.where((lowest == highest) & (highest != IGNORE), highest, 0).astype(np.uint8)
    filling[0] = 0
    return np.where(labels == 0, filling[regions], labels)
