"""A folder for each class: ``<root>/<split>/<class>/*`` or ``<root>/<class>/*``, with masks in a parallel folder."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from configs.dataset import FolderDataset
from storage.readers.listing import IMAGE_SUFFIXES, Classes, make_listing, nfc
from storage.samples import Listing, MaskSource, Sample, StagingError

NO_SPLIT = "all"
_DEBRIS = {"thumbs.db", "desktop.ini"}


def read_folder(config: FolderDataset) -> Listing:
    """List a data set of class folders; ids are the paths below root, sorted.

    Every file in a class folder is listed: one with another suffix than an image's, a name that is no text, or the
    same name as another in a different Unicode form is listed as refused. Only hidden files and the debris of file
    managers are left out.

    Parameters
    ----------
    config
        Section ``dataset`` with ``format: folder``.

    Raises
    ------
    StagingError
        A folder that is not there, no class folders, a class folder that is no class, images or folders where none
        should be.
    """
    classes = Classes(config.classes)
    unlabelled = set(map(nfc, config.unlabelled))
    walk = _Walk(config)
    samples = []
    for split in config.split or [NO_SPLIT]:
        for folder in walk.class_folders(split):
            name = nfc(_printable(folder.name))
            source = _printable(str(folder.relative_to(config.root)))
            labels = () if name in unlabelled else classes.check([name], f"folder {source}")
            samples += [walk.sample(split, path, labels) for path in walk.files(folder)]
    return make_listing(samples, classes, str(config.root))


@dataclass
class _Walk:
    config: FolderDataset
    taken: dict[str, str] = field(default_factory=dict)
    _masks: dict[str, dict[str, str]] = field(default_factory=dict)

    def class_folders(self, split: str) -> list[Path]:
        """Class folders of a split, sorted by name."""
        place = self.config.root / split if self.config.split else self.config.root
        if not place.is_dir():
            raise StagingError(f"{place}: expected a folder, found none; check dataset.root and dataset.split")
        masks = self.config.root / PurePosixPath(self.config.masks).parts[0] if self.config.masks else None
        children = list(_visible(place))
        if loose := [child.name for child in children if _is_image(child) and not child.is_dir()]:
            raise StagingError(f"{place}: expected class folders, saw the image {loose[0]!r} beside them")
        folders = [child for child in children if child.is_dir() and child != masks]
        if not folders:
            raise StagingError(f"{place}: expected one folder for each class, found none")
        return folders

    def files(self, folder: Path) -> Iterator[Path]:
        """Files of a class folder, sorted by name."""
        for child in _visible(folder):
            if child.is_dir():
                raise StagingError(
                    f"{folder}: expected only files in a class folder, saw the folder {child.name!r}; "
                    "where splits come before classes, name them in dataset.split"
                )
            if child.name.lower() not in _DEBRIS:
                yield child

    def sample(self, split: str, path: Path, labels: tuple[str, ...]) -> Sample:
        """One file as a sample, refused where its name cannot be worked with."""
        relative = path.relative_to(self.config.root).as_posix()
        shown = _printable(relative)
        refused = ""
        if shown != relative:
            refused = "the file name holds control characters or is not UTF-8"
        elif not _is_image(path):
            refused = f"expected the suffix of an image, saw {path.suffix!r}"
        image_id = nfc(shown)
        if image_id in self.taken:
            refused = f"another file has the same name in a different Unicode form: {self.taken[image_id]!r}"
            image_id = self._free(image_id)
        self.taken[image_id] = shown
        mask = None if refused else self._mask(PurePosixPath(relative))
        return Sample(image_id, shown, split, labels, shown, mask=mask, refused=refused)

    def _free(self, image_id: str) -> str:
        number = 2
        while f"{image_id} ({number})" in self.taken:
            number += 1
        return f"{image_id} ({number})"

    def _mask(self, relative: PurePosixPath) -> MaskSource | None:
        if not self.config.masks:
            return None
        parent = PurePosixPath(self.config.masks) / relative.parent
        if str(parent) not in self._masks:
            place = self.config.root / parent
            found = [child for child in _visible(place) if _is_image(child)] if place.is_dir() else []
            self._masks[str(parent)] = {nfc(child.stem): child.name for child in reversed(found)}
        name = self._masks[str(parent)].get(nfc(relative.stem))
        return MaskSource(self.config.mask_values, str(parent / name)) if name else None


def _visible(folder: Path) -> Iterator[Path]:
    """Children that are not hidden, in the order of their names; of twins the one in the usual spelling first."""
    names = sorted(os.listdir(folder), key=lambda name: (nfc(name), name != nfc(name), name))  # noqa: PTH208
    return (folder / name for name in names if not name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _printable(text: str) -> str:
    """The text with control characters, and bytes that are no UTF-8, spelt out."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(repr(char)[1:-1] if unicodedata.category(char) == "Cc" else char for char in text)
