"""Edge-predict: let doubtful pixels take the label of the region that they lie in.

EdgePredictMix cuts an image into super pixels along its edges. A pixel on an edge is no longer sure background, and a
doubtful pixel takes what most of its super pixel has.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

IGNORE = 255


def edge_predict(labels: Tensor, edges: Tensor) -> Tensor:
    """Fill ignored pixels inside of super pixels, and ignore background on edges.

    Edge pixels labelled 0 become 255. In each super pixel (see :func:`super_pixels`) the pixels labelled 255 take its
    most frequent label; 255 counts as a label too, and of labels that are equally frequent the smallest is taken. All
    other pixels stay as they are.

    Parameters
    ----------
    labels
        ``[B, H, W]`` uint8: 0 background, 1..254 class, 255 ignore.
    edges
        ``[B, H, W]`` bool, as :func:`methods.refinement.canny` finds them in the image or in the maps.

    Returns
    -------
    Tensor
        Labels ``[B, H, W]`` uint8; never a class that its image did not have.

    Raises
    ------
    ValueError
        Shapes that do not agree.
    TypeError
        Labels that are not uint8, or edges that are not bool.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022. As released: its text takes the dominant class of a super pixel for
    all of its pixels, its code for the ignored ones only.

    Examples
    --------
    >>> labels = torch.tensor([[[1, 1, 255, 0, 255, 255, 0]]], dtype=torch.uint8)
    >>> edges = torch.tensor([[[False, False, False, True, False, False, False]]])
    >>> edge_predict(labels, edges).tolist()
    [[[1, 1, 1, 255, 255, 255, 0]]]
    """
    if labels.ndim != 3 or labels.shape != edges.shape:
        raise ValueError(
            f"expected labels [B, H, W] and edges of the same shape, got {tuple(labels.shape)} and {tuple(edges.shape)}"
        )
    if labels.dtype != torch.uint8:
        raise TypeError(f"expected uint8 labels, got {labels.dtype}")
    refined = torch.empty_like(labels)
    for row, (label, edge) in enumerate(zip(labels, edges)):
        regions, _ = super_pixels(edge)
        refined[row] = _fill(label, edge, regions)
    return refined


def super_pixels(edges: Tensor) -> tuple[Tensor, int]:
    """Number the 4-connected regions of pixels that are on no edge.

    Parameters
    ----------
    edges
        ``[H, W]`` bool.

    Returns
    -------
    regions, count
        ``[H, W]`` int64: 0 on an edge, else 1..count in the order of each region's first pixel.

    Raises
    ------
    ValueError
        Not two dimensions.
    TypeError
        Edges that are not bool.

    Examples
    --------
    >>> regions, count = super_pixels(torch.tensor([[False, True, False]]))
    >>> regions.tolist(), count
    ([[1, 0, 2]], 2)
    """
    if edges.ndim != 2:
        raise ValueError(f"expected edges [H, W], got shape {tuple(edges.shape)}")
    if edges.dtype != torch.bool:
        raise TypeError(f"expected bool edges, got {edges.dtype}; an 8-bit edge image is edges > 0")
    regions, count = ndimage.label(~edges.cpu().numpy())
    return torch.from_numpy(regions.astype(np.int64)).to(edges.device), int(count)


def _fill(labels: Tensor, edges: Tensor, regions: Tensor) -> Tensor:
    filled = torch.where(edges & (labels == 0), IGNORE, labels)
    doubtful = ~edges & (labels == IGNORE)
    if not doubtful.any():
        return filled
    inside = ~edges
    common = _most_frequent(regions[inside].cpu().numpy(), labels[inside].cpu().numpy())
    filled[doubtful] = torch.from_numpy(common).to(labels.device)[regions[doubtful]]
    return filled


def _most_frequent(regions: NDArray[np.int64], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label that most pixels of each region have (the smallest of several), indexed by region."""
    # Pairs that occur, not a table of regions x labels: an image may have as many regions as pixels.
    pairs, counts = np.unique(256 * regions + labels, return_counts=True)
    owners, values = np.divmod(pairs, 256)
    order = np.lexsort((values, -counts, owners))
    present, first = np.unique(owners[order], return_index=True)
    common = np.zeros(present[-1] + 1, dtype=np.uint8)
    common[present] = values[order][first]
    return common
