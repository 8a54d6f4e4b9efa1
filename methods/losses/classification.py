"""Losses for image-level labels: single-label cross entropy and multi-label soft margin, both with class balance."""

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_WEIGHT = 20.0


def class_balance(targets: Tensor, *, multi_label: bool) -> Tensor:
    """Weights against class imbalance.

    Parameters
    ----------
    targets
        Labels of the training images, ``(N, K)``, 0 or 1.
    multi_label
        Whether an image may have any number of labels.

    Returns
    -------
    Tensor
        ``(K,)`` float32. Multi-label: negatives over positives of each class. Single label: N / (K n_k). Both lie in
        [1 / 20, 20]; a class without a positive gets 1.

    Examples
    --------
    >>> class_balance(torch.tensor([[1, 0], [1, 0], [0, 1]]), multi_label=False).tolist()
    [0.75, 1.5]
    """
    positives = targets.to(torch.float64).sum(dim=0)
    total = len(targets)
    ratio = (total - positives) / positives if multi_label else total / (targets.shape[1] * positives)
    ratio = torch.where(positives > 0, ratio, torch.ones_like(ratio))
    return ratio.clamp(1 / MAX_WEIGHT, MAX_WEIGHT).to(torch.float32)


def classification_loss(logits: Tensor, targets: Tensor, *, multi_label: bool, weights: Tensor | None = None) -> Tensor:
    """Mean loss of a batch.

    Parameters
    ----------
    logits
        Network output, ``(B, K)``.
    targets
        Labels, ``(B, K)``, 0 or 1; exactly one per row unless ``multi_label``.
    multi_label
        Soft margin (binary cross entropy of every class) instead of cross entropy.
    weights
        From :func:`class_balance`, ``(K,)``.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    ValueError
        Shapes differ, or a row of a single-label batch does not have exactly one label.
    """
    if logits.shape != targets.shape or logits.ndim != 2:
        raise ValueError(f"expected logits and targets (B, K), got {tuple(logits.shape)} and {tuple(targets.shape)}")
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), pos_weight=weights)
    if not bool((targets.sum(dim=1) == 1).all()):
        raise ValueError("expected exactly one label per image for cross entropy; use the soft margin loss")
    return F.cross_entropy(logits, targets.to(torch.int64).argmax(dim=1), weight=weights)
