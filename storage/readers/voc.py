"""PASCAL VOC layout: list files, images, one XML file of objects and at most one mask an image."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from configs.dataset import VocDataset
from storage.readers.listing import IMAGE_SUFFIXES, Classes, check_id, list_bytes, list_text, make_listing, nfc
from storage.samples import Listing, MaskKind, MaskSource, Sample, StagingError
from storage.truth import IGNORE, read_class_ids

_IMAGES = (".jpg", ".jpeg", ".png")
_MASKS = (".png",)
_KINDS: dict[str, MaskKind] = {"auto": "voc_auto", "index": "index", "rgb": "voc_rgb"}


def read_voc(config: VocDataset) -> Listing:
    """List a data set in VOC layout.

    A list file holds one id a line, or the paths of an image and its mask (with or without a leading slash), as the
    lists of the augmented VOC set do. An id whose image is not there is listed too: it will be quarantined.

    Parameters
    ----------
    config
        Section ``dataset`` with ``format: voc``.

    Raises
    ------
    StagingError
        A list or annotation that is not there or cannot be understood, an unknown class, an id twice.
    """
    classes = Classes(config.classes)
    if config.labels_from == "mask" and not config.classes:
        raise StagingError("dataset.classes: expected the names of the mask's ids 1..C for labels_from: mask, saw none")
    files = _Files(config.root)
    samples = []
    for split in config.split:
        for entry in _entries(config, files, split):
            where = f"{entry.source}: {entry.annotation}" if entry.annotation else entry.source
            labels = classes.check(_labels(config, entry), where)
            samples.append(Sample(entry.image_id, entry.image, split, labels, entry.source, mask=entry.mask))
    return make_listing(samples, classes, f"{config.root / config.lists}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of a list."""

    image_id: str
    image: str
    mask: MaskSource | None
    annotation: str
    source: str


@dataclass
class _Files:
    """Which files lie in a folder, listed once: by name without suffix, in one spelling."""

    root: Path
    _folders: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, folder: str, name: str, suffixes: tuple[str, ...]) -> str | None:
        """Path of the first file called ``name`` with one of the suffixes, in their order and any case."""
        path = PurePosixPath(folder) / name
        parent = str(path.parent)
        if parent not in self._folders:
            self._folders[parent] = self._list(parent)
        found = self._folders[parent].get(nfc(path.name), [])
        fitting = [file for file in found if PurePosixPath(file).suffix.lower() in suffixes]
        fitting.sort(key=lambda file: (suffixes.index(PurePosixPath(file).suffix.lower()), file))
        return str(path.parent / fitting[0]) if fitting else None

    def _list(self, folder: str) -> dict[str, list[str]]:
        by_stem: dict[str, list[str]] = {}
        place = self.root / folder
        if ".." not in PurePosixPath(folder).parts and place.is_dir():
            for child in place.iterdir():
                by_stem.setdefault(nfc(child.stem), []).append(child.name)
        return by_stem


def _entries(config: VocDataset, files: _Files, split: str) -> Iterator[_Entry]:
    name = f"{config.lists}/{split}.txt"
    for number, line in enumerate(list_text(config.root, name).splitlines(), start=1):
        # Only the white space of ASCII separates: an exotic one belongs to the id, and is refused there.
        if words := [word for word in line.replace("\t", " ").split(" ") if word]:
            yield _entry(config, files, words, f"{name}:{number}")


def _entry(config: VocDataset, files: _Files, words: list[str], source: str) -> _Entry:
    kind = _KINDS[config.palette]
    if len(words) == 1:
        image_id = check_id(words[0], source)
        if PurePosixPath(image_id).suffix.lower() in _IMAGES:
            raise StagingError(f"{source}: expected an id without suffix, or an image path and a mask path: {image_id}")
        image = files.find(config.images, image_id, _IMAGES) or f"{config.images}/{image_id}.jpg"
        mask_path = files.find(config.masks, image_id, _MASKS) if config.masks else None
    elif len(words) == 2 and all(PurePosixPath(word).suffix.lower() in IMAGE_SUFFIXES for word in words):
        image, mask_path = (word.lstrip("/") for word in words)
        image_id = check_id(PurePosixPath(image).stem, source)
    else:
        advice = ""
        if words[-1] in {"1", "-1", "0"}:
            advice = "; this is a list of one class: name the list without the class's name in dataset.split"
        raise StagingError(
            f"{source}: expected an id, or an image path and a mask path, saw {' '.join(words)!r}{advice}"
        )
    mask = MaskSource(kind, mask_path) if mask_path else None
    annotation = f"{config.annotations}/{image_id}.xml" if config.labels_from == "xml" else ""
    return _Entry(image_id, image, mask, annotation, source)


def _labels(config: VocDataset, entry: _Entry) -> list[str]:
    if config.labels_from == "xml":
        return _object_names(config.root, entry)
    if entry.mask is None:
        raise StagingError(
            f"{entry.source}: expected a mask to take the labels from, found none for {entry.image_id!r}"
        )
    names = config.classes or []
    ids = read_class_ids(
        config.root,
        entry.mask,
        classes=names,
        labels=None,
        source=entry.source,
        max_pixels=config.max_pixels,
    )
    return [names[value - 1] for value in np.unique(ids).tolist() if 0 < value < IGNORE]


def _object_names(root: Path, entry: _Entry) -> list[str]:
    try:
        data = list_bytes(root, entry.annotation)
    except StagingError as error:
        raise StagingError(f"{entry.source}: no labels: {error}") from error
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(data)
        tree = parser.close()
    except ElementTree.ParseError as error:
        raise StagingError(f"{entry.source}: {entry.annotation}: expected XML, saw {error}") from error
    except _DoctypeError:
        raise StagingError(f"{entry.source}: {entry.annotation}: expected XML without a document type") from None
    names = []
    for number, item in enumerate(tree.findall("object"), start=1):
        name = item.findtext("name")
        if not name:
            raise StagingError(f"{entry.source}: {entry.annotation}: object {number} has no name")
        names.append(name)
    return names


class _DoctypeError(Exception):
    pass


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities, which can grow without end or read other files, need a document type: stop where one begins."""

    def doctype(self, *_: object) -> None:
        raise _DoctypeError
