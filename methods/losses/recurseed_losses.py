"""RecurSeed losses: class maps and a decoder learn from what refinement made of the class maps."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.losses.partial_cross_entropy import partial_cross_entropy

IGNORE = 255
SMALL = 1e-5


class RecurSeedLosses(NamedTuple):
    """The terms, scalars with a graph."""

    class_loss: Tensor
    """Multi-label soft margin of the averaged class maps."""
    re_loss: Tensor
    """Distance of the normalised class maps from the refined ones."""
    seg_loss: Tensor
    """Cross entropy of the decoder where labels are certain."""

    def total(self, *, classes: float = 1.0, reconstruction: float = 1.0, segmentation: float = 1.0) -> Tensor:
        """Sum of the terms times their weights, all 1 as published; before epoch 5 only the first counts."""
        return classes * self.class_loss + reconstruction * self.re_loss + segmentation * self.seg_loss


def recurseed_losses(
    class_maps: Tensor, logits: Tensor, targets: Tensor, labels: Tensor, classes: Tensor
) -> RecurSeedLosses:
    r"""Losses of one step, on images as they are or on mixed ones.

    .. math:: L_{cls} = \ell(\overline{F}, Y), \qquad L_{rec} = \text{mean}\,\big|\hat M_{cam} - M_{rs}\big|, \qquad
        L_{seg} = \text{CE}\big(z, \text{CF}(M_{rs})\big)

    Parameters
    ----------
    class_maps
        Class maps F of the network before pooling, ``[B, K, h, w]`` floating point.
    logits
        Output z of the decoder, ``[B, K + 1, H, W]``, background first.
    targets
        Refined maps :math:`M_{rs}`, ``[B, K, h, w]`` in 0..1.
    labels
        What :func:`~methods.refinement.certain_filter.certain_filter` made of the targets, at the size of the logits:
        ``[B, H, W]`` uint8, 255 where nothing is certain.
    classes
        Classes of the images, ``[B, K]``, 0 or 1.

    Returns
    -------
    RecurSeedLosses
        The terms, at least float32. Without a certain pixel the last one is 0.

    Raises
    ------
    ValueError
        Shapes that do not belong together, or labels above K.
    TypeError
        Labels that are not uint8, or logits that are not floating point.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022. The training code was not released.

    Examples
    --------
    >>> maps, classes = torch.tensor([[[[4.0, 2.0]]]]), torch.ones(1, 1)
    >>> labels = torch.tensor([[[1, 255]]], dtype=torch.uint8)
    >>> terms = recurseed_losses(maps, torch.zeros(1, 2, 1, 2), torch.ones(1, 1, 1, 2), labels, classes)
    >>> [round(term.item(), 4) for term in terms]
    [0.0486, 0.25, 0.6931]
    """
    if logits.ndim != 4 or class_maps.ndim != 4 or logits.shape[1] != class_maps.shape[1] + 1:
        raise ValueError(
            "expected class maps [B, K, h, w] and logits [B, K + 1, H, W], got "
            f"{tuple(class_maps.shape)} and {tuple(logits.shape)}"
        )
    if labels.dtype != torch.uint8:
        raise TypeError(f"expected uint8 labels, got {labels.dtype}")
    maps = class_maps.to(torch.promote_types(class_maps.dtype, torch.float32))
    return RecurSeedLosses(
        F.multilabel_soft_margin_loss(maps.mean(dim=(2, 3)), classes.to(maps.dtype)),
        reconstruction_loss(activations(maps, classes), targets),
        partial_cross_entropy(logits, labels.long(), ignore=IGNORE),
    )


def reconstruction_loss(maps: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference from a target that carries no gradient.

    Parameters
    ----------
    maps
        Normalised class maps, ``[B, K, h, w]``.
    targets
        Refined maps, same shape. They come from the network that learns: without a stop it would move the target.

    Raises
    ------
    ValueError
        Shapes differ.

    Examples
    --------
    >>> reconstruction_loss(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, 1.0]]]])).item()
    0.25
    """
    if maps.shape != targets.shape:
        raise ValueError(f"expected maps and targets of one shape, got {tuple(maps.shape)} and {tuple(targets.shape)}")
    return F.l1_loss(maps, targets.detach().to(maps.dtype))


def activations(class_maps: Tensor, classes: Tensor) -> Tensor:
    """Class maps without their negative part, divided by their maximum; 0 for absent classes.

    Parameters
    ----------
    class_maps
        ``[B, K, h, w]`` floating point.
    classes
        ``[B, K]``, 0 or 1.

    Returns
    -------
    Tensor
        Same shape, in 0..1, with a graph. A maximum below 1e-5 is not enlarged: its gradient would be, too.

    Raises
    ------
    ValueError
        Shapes that do not belong together.

    Examples
    --------
    >>> activations(torch.tensor([[[[-1.0, 2.0, 4.0]], [[1.0, 1.0, 1.0]]]]), torch.tensor([[1, 0]])).tolist()
    [[[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]]
    """
    if class_maps.ndim != 4 or classes.shape != class_maps.shape[:2]:
        raise ValueError(
            f"expected class maps [B, K, h, w] and classes [B, K], got {tuple(class_maps.shape)} and "
            f"{tuple(classes.shape)}"
        )
    positive = class_maps.relu()
    highest = positive.amax(dim=(2, 3), keepdim=True).clamp(min=SMALL)
    return positive / highest * classes.to(positive.dtype)[:, :, None, None]
