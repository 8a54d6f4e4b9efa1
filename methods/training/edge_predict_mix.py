"""EdgePredictMix: paste what is labelled in one image over another, with its labels and its maps.

Labels whose borders follow edges can be cut out along them: the mixed image shows real borders in front of a new
background.
"""

from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = 255


class Mixed(NamedTuple):
    """A mixed batch, in the shapes and types of what was mixed."""

    images: Tensor
    """``[B, C, H, W]``."""
    labels: Tensor
    """``[B, H, W]`` uint8."""
    maps: Tensor
    """``[B, K, H, W]``, without a graph."""
    classes: Tensor
    """``[B, K]``, 0 or 1."""


def mix(
    images: Tensor,
    labels: Tensor,
    maps: Tensor,
    classes: Tensor,
    *,
    partners: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Mixed:
    r"""Paste the labelled pixels of every image over its partner.

    .. math:: X^{mix}_{i,p} = X_{i,p} \;\text{ if }\; y_{i,p} \notin \{0, 255\}, \quad X_{j,p} \;\text{ otherwise}

    for images, labels and maps X alike, with the partner j of i.

    Parameters
    ----------
    images
        ``[B, C, H, W]``.
    labels
        ``[B, H, W]`` uint8: 0 background, 1..K class, 255 ignore. Best after
        :func:`~methods.refinement.edge_predict.edge_predict`.
    maps
        Targets of the class maps, ``[B, K, H, W]``: enlarge coarser ones first.
    classes
        Classes of the images, ``[B, K]``, 0 or 1.
    partners
        Partner of each image, ``[B]`` int64; by default drawn by :func:`draw_partners`.
    generator
        Source of randomness on the CPU, if there are no partners.

    Returns
    -------
    Mixed
        The classes of a mixed image are those of its label map, and those that its partner is known to have without a
        labelled pixel: they may show wherever the partner shows. A class of the pasted image without a labelled pixel
        is not pasted, one of the partner whose labelled pixels are all covered is gone.

    Raises
    ------
    ValueError
        Shapes that do not belong together, labels above K, partners that are not rows of the batch, or fewer than two
        images to draw partners from.
    TypeError
        Labels that are not uint8, or partners that are not int64.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022. The training code was not released: which classes a mixed image has
    is a choice made here.

    Examples
    --------
    >>> labels = torch.tensor([[[1, 0, 255]], [[0, 2, 2]]], dtype=torch.uint8)
    >>> batch = torch.zeros(2, 3, 1, 3), labels, torch.zeros(2, 2, 1, 3), torch.eye(2)
    >>> mixed = mix(*batch, partners=torch.tensor([1, 0]))
    >>> mixed.labels.tolist(), mixed.classes.tolist()
    ([[[1, 2, 2]], [[1, 2, 2]]], [[1.0, 1.0], [1.0, 1.0]])
    """
    _require_batch(images, labels, maps, classes)
    if partners is None:
        partners = draw_partners(len(images), generator)
    _require_partners(partners, len(images))
    partners = partners.to(images.device)
    pasted = (labels != 0) & (labels != IGNORE)
    over = pasted[:, None]
    maps = maps.detach()
    mixed_labels = torch.where(pasted, labels, labels[partners])
    shown = _present(mixed_labels, maps.shape[1])
    seen = _present(labels, maps.shape[1])[partners]
    uncovered = ~pasted.flatten(1).all(dim=1, keepdim=True)
    kept = (classes[partners] > 0) & ~seen & uncovered
    return Mixed(
        torch.where(over, images, images[partners]),
        mixed_labels,
        torch.where(over, maps, maps[partners]),
        (shown | kept).to(classes.dtype),
    )


def draw_partners(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw another row of a batch for each row, all others alike.

    Parameters
    ----------
    count
        Rows, at least 2.
    generator
        Source of randomness, on the CPU; by default torch's own.

    Returns
    -------
    Tensor
        ``[count]`` int64. Rows may have the same partner.

    Raises
    ------
    ValueError
        Fewer than two rows.

    Examples
    --------
    >>> draw_partners(2).tolist()
    [1, 0]
    """
    if count < 2:
        raise ValueError(f"expected at least two images to mix, got {count}: leave a last batch of one image out")
    drawn = torch.randint(count - 1, (count,), generator=generator)
    # The other rows in order are all but the row itself: skip it.
    return drawn + (drawn >= torch.arange(count))


def _present(labels: Tensor, classes: int) -> Tensor:
    """Classes that have a labelled pixel, ``[B, K]`` bool."""
    found = torch.zeros(len(labels), IGNORE + 1, dtype=torch.bool, device=labels.device)
    found.scatter_(1, labels.flatten(1).long(), True)
    return found[:, 1 : classes + 1]


def _require_batch(images: Tensor, labels: Tensor, maps: Tensor, classes: Tensor) -> None:
    count, size = len(labels), labels.shape[1:]
    if (
        labels.ndim != 3
        or images.ndim != 4
        or maps.ndim != 4
        or any(len(one) != count or one.shape[2:] != size for one in (images, maps))
        or classes.shape != maps.shape[:2]
        or maps.shape[1] >= IGNORE
    ):
        raise ValueError(
            "expected images [B, C, H, W], labels [B, H, W], maps [B, K, H, W] and classes [B, K] of at most 254 "
            f"classes, got {tuple(images.shape)}, {tuple(labels.shape)}, {tuple(maps.shape)} and {tuple(classes.shape)}"
        )
    if labels.dtype != torch.uint8:
        raise TypeError(f"expected uint8 labels, got {labels.dtype}")
    unknown = (labels > maps.shape[1]) & (labels != IGNORE)
    if bool(unknown.any()):
        found = sorted(set(labels[unknown].tolist()))[:5]
        raise ValueError(f"expected labels 0..{maps.shape[1]} or 255, got {found} at {int(unknown.sum())} pixels")


def _require_partners(partners: Tensor, count: int) -> None:
    if partners.dtype != torch.int64:
        raise TypeError(f"expected int64 partners, got {partners.dtype}")
    if partners.shape != (count,) or bool(((partners < 0) | (partners >= count)).any()):
        raise ValueError(f"expected {count} partners, each in 0..{count - 1}, got {partners.tolist()}")
