"""Gold images: the few whose ground truth may be looked at to choose a setting, drawn alike by everyone."""

from collections.abc import Sequence
from hashlib import sha256

from storage.index import ImageIndex

_SALT = "maskmill gold"


def gold_order(ids: Sequence[str]) -> list[int]:
    """Places of the ids in the order they are drawn in: that of a hash, which no order of rows or names decides.

    Examples
    --------
    >>> [["a", "b", "c"][place] for place in gold_order(["a", "b", "c"])]
    ['b', 'c', 'a']
    >>> [["c", "a", "b"][place] for place in gold_order(["c", "a", "b"])]
    ['b', 'c', 'a']
    """
    return sorted(range(len(ids)), key=lambda place: sha256(f"{_SALT}\0{ids[place]}".encode()).digest())


def gold_rows(index: ImageIndex, candidates: Sequence[int], wished: int) -> list[int]:
    """Draw images class by class in turn, so that small sets hold every class.

    Parameters
    ----------
    index
        The image index.
    candidates
        Rows to draw from: those of one split that have a ground truth.
    wished
        How many; fewer are drawn where there are no more.

    Returns
    -------
    list of int
        Rows, ascending. The k images drawn are among the k + 1 drawn from the same candidates.

    Notes
    -----
    The classes, and the images without any, take turns; each takes its first image by hash that nobody took before.
    """
    left = [candidates[place] for place in gold_order([index.ids[row] for row in candidates])]
    turns = {k: [row for row in left if k in (index.class_ids[row] or [0])] for k in range(len(index.classes) + 1)}
    drawn: dict[int, None] = {}
    while len(drawn) < min(wished, len(left)):
        for queue in turns.values():
            while queue and queue[0] in drawn:
                queue.pop(0)
            if queue and len(drawn) < wished:
                drawn[queue.pop(0)] = None
    return sorted(drawn)
