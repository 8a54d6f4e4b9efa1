"""Label share: how much of an image a label's mask takes, a sign of tight masks that needs no ground truth.

Masks from class activations err by covering too much: maps are coarse, and the object's surroundings activate too.
Where that is so, of two settings that keep every label on its image the one with the smaller masks is the better one.
"""

import numpy as np
from numpy.typing import NDArray

from methods.metrics.arrays import Array, as_array


def label_share(shares: Array) -> float:
    r"""Mean share of the image that a label's mask takes; a label without any pixel counts as the whole image.

    .. math:: S = \frac{1}{P} \sum_p \begin{cases} a_p & a_p > 0 \\ 1 & a_p = 0 \end{cases}

    Parameters
    ----------
    shares
        ``(P,)``, per (image, class) pair the fraction of the image's pixels that carry the class, in [0, 1].

    Returns
    -------
    float
        In (0, 1], smaller for tighter masks; NaN without pairs. Losing labels cannot lower it.

    Raises
    ------
    ValueError
        Shares outside of [0, 1] or not finite.

    Notes
    -----
    It compares settings of one method on the same pairs and is no measure of quality: where masks are too small already
    (precision above recall) the smallest are the worst.

    Examples
    --------
    >>> label_share(np.array([0.25, 0.75]))
    0.5
    >>> label_share(np.array([0.25, 0.0]))
    0.625
    """
    found: NDArray[np.float64] = as_array(shares).astype(np.float64)
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"expected shares in 0..1, got {found.min():g} to {found.max():g}")
    return float(np.where(found > 0, found, 1.0).mean()) if found.size else float("nan")
