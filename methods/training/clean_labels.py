"""Label maps that follow an image's colours: what affinity networks learn from is cleaned before it is joined."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from methods.refinement.pamr import DILATIONS, pamr


def clean_labels(
    images: Tensor, labels: Tensor, *, iterations: int = 10, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    r"""Refine label maps by PAMR: every label's own map, background's too, then the strongest.

    .. math:: y'_p = \arg\max_k \mathrm{PAMR}\big([y = k]\big)_p

    PAMR is linear and keeps the sum over labels: that a label is only probable (IRN's dense CRF starts from 0.7) would
    change nothing.

    Parameters
    ----------
    images
        ``[B, 3, H, W]`` in 0..1, not normalised.
    labels
        ``[B, N, H, W]`` uint8, N label maps of each image: 0 background, 1..254 class. Numbers without gaps are
        cheapest: every number up to the largest costs a map.
    iterations, dilations
        See :func:`~methods.refinement.pamr.pamr`.

    Returns
    -------
    Tensor
        Same shape, uint8. Equal strength: the lowest number.

    Raises
    ------
    ValueError
        Shapes that do not agree, or images outside of 0..1.
    TypeError
        Labels that are not uint8.

    References
    ----------
    Ahn et al., Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations, CVPR 2019, has a dense
    CRF in its place.

    Examples
    --------
    >>> image = torch.zeros(1, 3, 1, 6)
    >>> image[..., 3:] = 1
    >>> clean_labels(image, torch.tensor([[[[0, 0, 1, 1, 0, 1]]]], dtype=torch.uint8), dilations=[1]).tolist()
    [[[[0, 0, 0, 1, 1, 1]]]]
    """
    if labels.ndim != 4 or len(labels) != len(images):
        raise ValueError(f"expected labels [B, N, H, W] of {len(images)} images, got shape {tuple(labels.shape)}")
    if labels.dtype != torch.uint8:
        raise TypeError(f"expected labels as uint8, got {labels.dtype}")
    if labels.numel() == 0:
        return labels.clone()
    maps = one_hot(labels.long()).movedim(-1, 2).to(torch.float32)
    found = pamr(images, maps.flatten(1, 2), iterations=iterations, dilations=dilations)
    return found.view(maps.shape).argmax(dim=2).to(torch.uint8)
