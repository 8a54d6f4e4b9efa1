"""Pixels counted per pair of true and predicted class: the integers that all label metrics derive from."""

from collections.abc import Callable

import numpy as np

from methods.metrics.arrays import Array, Counts, as_labels

IGNORE = 255


def pair_counts(predicted: Array, truth: Array, classes: int, ignore: int = IGNORE) -> Counts:
    """Count every pair of true and predicted class.

    Parameters
    ----------
    predicted, truth
        Labels of any, equal shape: integers 0..classes-1, or ``ignore``. Arrays or tensors.
    classes
        Number of classes K, background (id 0) included.
    ignore
        Where the truth has it the pixel does not count; a prediction of it is left unlabelled.

    Returns
    -------
    ndarray
        ``(K, K + 1)`` int64, true class by predicted class; the last column counts what was left unlabelled.

    Raises
    ------
    ValueError
        Shapes that differ, or class ids out of range.
    TypeError
        Labels that are not integers.

    Examples
    --------
    >>> pair_counts(np.array([0, 1, 255, 0]), np.array([0, 1, 1, 255]), 2).tolist()
    [[1, 0, 0], [0, 1, 1]]
    """
    seen, true = as_labels(predicted, "predicted"), as_labels(truth, "true")
    if seen.shape != true.shape:
        raise ValueError(f"expected predicted and truth of one shape, got {seen.shape} and {true.shape}")
    # Both labels in one 16-bit number: one bincount over the pixels, no pass per class.
    packed = (true.astype(np.uint16) << 8) | seen
    table = np.bincount(packed.ravel(), minlength=1 << 16).reshape(256, 256)
    for what, present in (("predicted", table.any(axis=0)), ("true", table.any(axis=1))):
        outside = [one for one in np.flatnonzero(present).tolist() if one >= classes and one != ignore]
        if outside:
            raise ValueError(f"expected {what} class ids 0 to {classes - 1} or {ignore}, found {outside[:8]}")
    counts: Counts = np.concatenate([table[:classes, :classes], table[:classes, ignore, None]], axis=1, dtype=np.int64)
    return counts


def class_counts(counts: Counts) -> Counts:
    """Predicted, true and truly predicted pixels of every class, ``(K, 3)``, from :func:`pair_counts`.

    Examples
    --------
    >>> class_counts(np.array([[5, 1, 0], [2, 3, 1]])).tolist()
    [[7, 6, 5], [4, 6, 3]]
    """
    columns = [counts[:, :-1].sum(axis=0), counts.sum(axis=1), np.diagonal(counts)]
    return np.stack(columns, axis=1)


def foreground_counts(counts: Counts) -> Counts:
    """Pixels tp, fp, fn, tn of any class above 0 against background, ``(4,)``, from :func:`pair_counts`.

    A wrong class is foreground nevertheless; a pixel left unlabelled is not foreground.

    Examples
    --------
    >>> foreground_counts(np.array([[5, 1, 0], [2, 3, 1]])).tolist()
    [3, 1, 3, 5]
    """
    claimed, left = counts[:, 1:-1].sum(axis=1), counts[:, [0, -1]].sum(axis=1)
    return np.array([claimed[1:].sum(), claimed[0], left[1:].sum(), left[0]], dtype=np.int64)


def image_counts(predicted: Array, truth: Array, classes: int, ignore: int = IGNORE) -> Counts:
    """Predicted, true and truly predicted pixels of every class, image by image.

    Parameters
    ----------
    predicted, truth
        ``(B, ...)`` of equal shape; the first axis is the image. Otherwise as :func:`pair_counts`.
    classes, ignore
        As :func:`pair_counts`.

    Returns
    -------
    ndarray
        ``(B, K, 3)`` int64.

    Raises
    ------
    ValueError, TypeError
        As :func:`pair_counts`.

    Examples
    --------
    >>> image_counts(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [0, 1]]), 2).tolist()
    [[[1, 1, 1], [1, 1, 1]], [[0, 1, 0], [2, 1, 1]]]
    """
    return _each(class_counts, (classes, 3), predicted, truth, classes, ignore)


def image_foreground_counts(predicted: Array, truth: Array, classes: int, ignore: int = IGNORE) -> Counts:
    """Pixels tp, fp, fn, tn of foreground against background, image by image, ``(B, 4)`` int64.

    Parameters and errors are those of :func:`image_counts`, the definition that of :func:`foreground_counts`.

    Examples
    --------
    >>> image_foreground_counts(np.array([[0, 2], [1, 255]]), np.array([[0, 1], [0, 1]]), 3).tolist()
    [[1, 0, 0, 1], [0, 1, 1, 0]]
    """
    return _each(foreground_counts, (4,), predicted, truth, classes, ignore)


def _each(
    reduce: Callable[[Counts], Counts],
    shape: tuple[int, ...],
    predicted: Array,
    truth: Array,
    classes: int,
    ignore: int,
) -> Counts:
    if predicted.shape != truth.shape or len(truth.shape) < 1:
        raise ValueError(
            f"expected predicted and truth (B, ...) of one shape, got {tuple(predicted.shape)} and {tuple(truth.shape)}"
        )
    pairs = zip(predicted, truth)
    found = [reduce(pair_counts(one, other, classes, ignore)) for one, other in pairs]
    return np.array(found, dtype=np.int64).reshape(-1, *shape)
