"""The colours of PASCAL VOC masks: class ids readable by eye in any picture viewer."""

import numpy as np
from numpy.typing import NDArray


def voc_palette() -> NDArray[np.uint8]:
    r"""Colour of every mask value.

    Bit :math:`3j + c` of the class id (red 0, green 1, blue 2) becomes bit :math:`7 - j` of that channel.

    Returns
    -------
    numpy.ndarray
        ``(256, 3)`` uint8 RGB: 0 black, 1 dark red, ..., 255 (ignore, the border of VOC masks) cream.

    References
    ----------
    PASCAL VOC development kit, colour map of the segmentation task.

    Examples
    --------
    >>> voc_palette()[[0, 1, 2, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]]
    """
    ids = np.arange(256)[:, None]
    channel = np.arange(3)[None]
    colours = np.zeros((256, 3), dtype=np.int64)
    for j in range(8):
        colours |= ((ids >> (3 * j + channel)) & 1) << (7 - j)
    return colours.astype(np.uint8)
