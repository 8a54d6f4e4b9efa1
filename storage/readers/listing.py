"""What all readers share: ids that are unique, labels that are classes, texts that are UTF-8, paths below the root."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from configs.dataset import MAX_CLASSES
from storage.decode import ImageRefused, read_bytes
from storage.samples import Listing, Sample, StagingError

MAX_LIST_BYTES = 4 << 30
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"}
)


def nfc(text: str) -> str:
    """The one spelling that ids and class names are compared in."""
    return unicodedata.normalize("NFC", text)


class Classes:
    """Class names of a data set: given by the configuration, or those that the data name.

    Parameters
    ----------
    names
        Names in id order, or None to take every name.
    most
        How many there may be.
    """

    def __init__(self, names: Sequence[str] | None, most: int = MAX_CLASSES) -> None:
        self._most = most
        self._given = None if names is None else tuple(map(nfc, names))
        self._found: dict[str, str] = {}

    def check(self, labels: Iterable[str], source: str) -> tuple[str, ...]:
        """An image's labels, each once, in their one spelling; ``source`` names file and row.

        Raises
        ------
        StagingError
            A name that is no class; where only surrounding space differs, the message says so.
        """
        names = dict.fromkeys(map(nfc, labels))
        for name in names:
            if self._given is None:
                if not name or name != name.strip():
                    raise StagingError(f"{source}: expected a class name without surrounding space, saw {name!r}")
                self._found.setdefault(name, source)
            elif name not in self._given:
                raise StagingError(f"{source}: {self._unknown(name)}")
        return tuple(names)

    def _unknown(self, name: str) -> str:
        given = self._given or ()
        text = f"expected one of dataset.classes ({', '.join(given[:30])}), saw {name!r}"
        near = [known for known in given if known.strip().casefold() == name.strip().casefold()]
        if not near:
            return text
        what = "surrounding space" if near[0].strip() == name.strip() else "upper and lower case"
        return f"{text}, which differs from {near[0]!r} by {what}"

    def finish(self) -> tuple[str, ...]:
        """Names in id order: as given, else those found, sorted.

        Raises
        ------
        StagingError
            No class, more than there may be (254), or one twice.
        """
        names = tuple(sorted(self._found)) if self._given is None else self._given
        if not 0 < len(names) <= self._most:
            raise StagingError(f"dataset.classes: expected 1 to {self._most} classes, the data set has {len(names)}")
        if len(set(names)) < len(names):
            raise StagingError(f"dataset.classes: expected every class once, saw {', '.join(names)}")
        return names


def check_id(image_id: str, source: str) -> str:
    """An image id in its one spelling.

    Raises
    ------
    StagingError
        An empty id, surrounding space, control characters.
    """
    if not image_id or image_id != image_id.strip():
        raise StagingError(f"{source}: expected an image id without surrounding space, saw {image_id!r}")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in image_id):
        raise StagingError(f"{source}: expected an image id without control characters, saw {image_id!r}")
    return nfc(image_id)


def make_listing(samples: Sequence[Sample], classes: Classes, where: str) -> Listing:
    """Close a listing: ids are unique, labels in class order, and there is something to work on.

    Raises
    ------
    StagingError
        No image, an id twice, or classes that cannot be.
    """
    if not samples:
        raise StagingError(f"{where}: expected at least one image, found none")
    rows: dict[str, str] = {}
    for sample in samples:
        if sample.image_id in rows:
            raise StagingError(
                f"{sample.source}: expected every image id once, saw {sample.image_id!r}, "
                f"which {rows[sample.image_id]} has too"
            )
        rows[sample.image_id] = sample.source
        if not _is_text(sample.path):
            raise StagingError(f"{sample.source}: expected a path that is text, saw {sample.path!r}")
    names = classes.finish()
    place = {name: number for number, name in enumerate(names)}
    ordered = [_with_labels(sample, tuple(sorted(sample.labels, key=place.__getitem__))) for sample in samples]
    return Listing(ordered, names)


def _is_text(path: str) -> bool:
    """Whether it can be written as UTF-8: JSON may hold halves of characters."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_labels(sample: Sample, labels: tuple[str, ...]) -> Sample:
    return sample if labels == sample.labels else replace(sample, labels=labels)


def list_bytes(root: Path, relative: str) -> bytes:
    """A list, table or annotation file, which must be there.

    Raises
    ------
    StagingError
        It cannot be read.
    """
    try:
        return read_bytes(root, relative, max_bytes=MAX_LIST_BYTES)
    except ImageRefused as refusal:
        raise StagingError(f"{root}: {refusal}; check dataset.root and the dataset's paths") from refusal


def list_text(root: Path, relative: str) -> str:
    """The same as text, with or without a byte order mark.

    Raises
    ------
    StagingError
        It cannot be read, or is not UTF-8.
    """
    try:
        return list_bytes(root, relative).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StagingError(f"{relative}: expected UTF-8 text, byte {error.start} is not: {error.reason}") from error
