"""Images of index rows, read only if the file is still the one that was staged."""

import hashlib
from pathlib import Path

from storage.decode import DecodedImage, decode_image, read_bytes
from storage.faults import deadly_image
from storage.index import ImageIndex


class ChangedImageError(RuntimeError):
    """A file is no longer the one that was staged."""


def read_row(root: Path, index: ImageIndex, row: int, max_pixels: int) -> DecodedImage:
    """Decode the image of a row.

    Raises
    ------
    ChangedImageError
        The file's hash is not the index's: its masks would belong to another picture.
    ImageRefused
        The file is gone.
    """
    deadly_image(index.ids[row])
    path = index.paths[row]
    data = read_bytes(root, path)
    if hashlib.sha256(data).hexdigest() != index.hashes[row]:
        raise ChangedImageError(f"{path}: the file changed since it was staged; run again, which stages it anew")
    return decode_image(data, max_pixels)
