"""Which byte stands for which class in an image's mask."""

from collections.abc import Sequence

from configs.dataset import MAX_CLASSES


def mask_values(class_ids: Sequence[int], classes: int) -> list[int]:
    """Values of an image's classes in its masks.

    Up to 254 classes they are the class ids. A data set with more, such as ImageNet, has no masks of its own to compare
    with, and each image shows few of its classes: they are numbered 1, 2, ... in the order of their ids.

    Parameters
    ----------
    class_ids
        The image's classes 1..C, ascending: one row of :attr:`storage.index.ImageIndex.class_ids`.
    classes
        Number of classes C of the data set.

    Raises
    ------
    ValueError
        More than 254 classes in one image, or ids out of order or out of range.

    Examples
    --------
    >>> mask_values([3, 20], classes=20), mask_values([3, 977], classes=1000)
    ([3, 20], [1, 2])
    """
    ids = list(class_ids)
    if ids != sorted(set(ids)) or (ids and not 1 <= ids[0] <= ids[-1] <= classes):
        raise ValueError(f"expected class ids 1..{classes}, ascending, got {ids}")
    if len(ids) > MAX_CLASSES:
        raise ValueError(f"expected at most {MAX_CLASSES} classes in one image, got {len(ids)}")
    return ids if classes <= MAX_CLASSES else list(range(1, len(ids) + 1))
