"""What all metrics share: arrays or tensors in, ratios that may be undefined out."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any] | Tensor
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def as_array(values: Array) -> NDArray[Any]:
    """A numpy view of an array, or of a tensor on any device.

    Examples
    --------
    >>> import torch
    >>> as_array(torch.ones(2, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    if isinstance(values, Tensor):
        found: NDArray[Any] = values.detach().cpu().numpy()
        return found
    return np.asarray(values)


def as_labels(values: Array, name: str) -> NDArray[np.uint8]:
    """Labels as uint8; other integers are accepted if they are in 0..255.

    Raises
    ------
    TypeError
        Values that are not integers.
    ValueError
        Values outside of 0..255.

    Examples
    --------
    >>> as_labels(np.array([1, 255]), "truth").dtype
    dtype('uint8')
    """
    labels = as_array(values)
    if labels.dtype == np.uint8:
        return labels
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"expected {name} labels as uint8, got {labels.dtype}")
    if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise ValueError(f"expected {name} labels 0 to 255, got {labels.min()} to {labels.max()}")
    return labels.astype(np.uint8)


def ratio(numerator: Counts, denominator: Counts, defined: NDArray[np.bool_] | bool = True) -> Floats:
    """Element-wise ratio: 0 where the denominator is 0 although the case is ``defined``, NaN where it is not.

    Examples
    --------
    >>> ratio(np.array([1, 0, 0]), np.array([2, 0, 0]), np.array([True, True, False])).tolist()
    [0.5, 0.0, nan]
    """
    return np.where(defined, numerator / np.maximum(denominator, 1), math.nan)


def mean_defined(values: Floats, axis: int | None = None) -> Any:
    """Mean of the values that are not NaN; NaN if there is none.

    Examples
    --------
    >>> float(mean_defined(np.array([1.0, np.nan, 0.0])))
    0.5
    """
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)[()]
