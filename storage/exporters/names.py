"""File names for images: the id where it is a plain name, else the row number."""

import re

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# Row names themselves, and what Windows keeps for devices, are never taken from an id.
_KEPT = re.compile(r"row-\d+|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?|.*\.", re.IGNORECASE)


class FileNames:
    """Gives every image a name that is safe on any file system and used once, whatever case it is read in.

    Examples
    --------
    >>> names = FileNames()
    >>> [names.take(row, image_id) for row, image_id in enumerate(["cat_01", "../cat", "CAT_01"])]
    ['cat_01', 'row-00000001', 'row-00000002']
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, row: int, image_id: str) -> str:
        """The name, without suffix, of the image in a row; rows must differ."""
        folded = image_id.lower()
        plain = _PLAIN.fullmatch(image_id) and not _KEPT.fullmatch(image_id) and folded not in self._taken
        if not plain:
            return f"row-{row:08d}"
        self._taken.add(folded)
        return image_id
