"""WSOL metadata, as of CUB, ImageNet and OpenImages: text files of ids, labels, sizes and boxes or masks a split."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from configs.dataset import MAX_CLASSES, MAX_LABELS, WsolDataset
from storage.boxes import boxes_text, check_box
from storage.instance_files import files_mask
from storage.readers.listing import Classes, check_id, list_text, make_listing, nfc
from storage.samples import Listing, MaskSource, Sample, StagingError

_NUMBER = re.compile(r"-?[0-9]{1,9}")


def read_wsol(config: WsolDataset) -> Listing:
    """List a data set in the layout of WSOL metadata, in the order of image_ids.txt.

    ============================  =================================================================================
    ``image_ids.txt``             one id a line: the path of the image below ``images``, suffix included
    ``class_labels.txt``          ``id,label``: one line an id, labels from 0
    ``image_sizes.txt``           ``id,width,height``: only looked at where there are boxes
    ``localization.txt``          ``id,x0,y0,x1,y1``, or ``id,mask,ignored`` with an empty last field on all but one
                                  line of an id; several lines an id. Empty where a split has neither.
    ============================  =================================================================================

    Ids may hold commas and slashes: a line is split from its right. An id whose image is not there is listed too: it
    will be quarantined.

    Parameters
    ----------
    config
        Section ``dataset`` with ``format: wsol``.

    Raises
    ------
    StagingError
        A file that is not there, a line that cannot be understood, an id twice or without a label, without a size, or
        alone without a box or mask, a box outside of its image, an unknown class.

    References
    ----------
    Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020.
    """
    splits = [_Split.load(config, split) for split in config.split]
    names = _names(config, splits)
    kept = {name: number for number, name in enumerate(map(nfc, config.classes or names), start=1)}
    if unknown := [name for name in kept if name not in names]:
        raise StagingError(
            f"dataset.classes: expected some of the {len(names)} names that the data set has "
            f"({', '.join(names[:5])}, ...), saw {', '.join(unknown[:5])}"
        )
    classes = Classes(config.classes or names, most=MAX_CLASSES if config.masks else MAX_LABELS)
    samples = [sample for split in splits for sample in split.samples(config, names, kept)]
    return make_listing(samples, classes, config.metadata)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a list: the id as written and what follows it; ``where`` names file and line."""

    image_id: str
    written: str
    values: list[str]
    where: str

    def numbers(self, least: int | None = None) -> list[int]:
        """Its values as whole numbers, none below ``least``."""
        found = [int(value) for value in self.values if _NUMBER.fullmatch(value)]
        if len(found) < len(self.values) or (least is not None and min(found) < least):
            limit = "" if least is None else f" of at least {least}"
            raise StagingError(f"{self.where}: expected whole numbers{limit}, saw {', '.join(self.values)!r}")
        return found


@dataclass(frozen=True, slots=True)
class _Split:
    """One split: the lines of its ids, and what the other files say of each."""

    name: str
    ids: list[_Line]
    labels: dict[str, tuple[int, str]]
    places: dict[str, list[_Line]]
    sizes: dict[str, tuple[int, int]]

    @classmethod
    def load(cls, config: WsolDataset, split: str) -> "_Split":
        folder = config.metadata.replace("{split}", split)
        ids = list(_lines(config, f"{folder}/image_ids.txt", ["id"]))
        known = {line.image_id for line in ids}
        labels = _once(_known(_lines(config, f"{folder}/class_labels.txt", ["id", "label"]), known))
        _demand(known, labels, f"{folder}/class_labels.txt", "a label")
        fields = ["id", "mask", "ignored"] if config.masks else ["id", "x0", "y0", "x1", "y1"]
        places: dict[str, list[_Line]] = {}
        for line in _known(_lines(config, f"{folder}/localization.txt", fields), known):
            places.setdefault(line.image_id, []).append(line)
        sizes: dict[str, _Line] = {}
        if places:
            _demand(known, places, f"{folder}/localization.txt", "a mask" if config.masks else "a box")
        if places and not config.masks:
            file = f"{folder}/image_sizes.txt"
            sizes = _once(_known(_lines(config, file, ["id", "width", "height"]), known))
            _demand(known, sizes, file, "a size")
        return cls(
            split,
            ids,
            {image_id: (line.numbers(0)[0], line.where) for image_id, line in labels.items()},
            places,
            {image_id: (line.numbers(1)[1], line.numbers(1)[0]) for image_id, line in sizes.items()},
        )

    def samples(self, config: WsolDataset, names: list[str], kept: dict[str, int]) -> Iterator[Sample]:
        """Samples of the classes that are kept, by name with their ids."""
        for line in self.ids:
            label, where = self.labels[line.image_id]
            if label >= len(names):
                raise StagingError(f"{where}: expected a label 0 to {len(names) - 1}, saw {label}")
            if number := kept.get(names[label]):
                path = str(PurePosixPath(config.images) / line.written)
                mask = None if config.masks is None else self._mask(line.image_id, config.masks)
                boxes = "" if config.masks is not None else self._boxes(line.image_id, number)
                yield Sample(line.image_id, path, self.name, (names[label],), line.where, mask=mask, boxes=boxes)

    def _boxes(self, image_id: str, class_id: int) -> str:
        boxes = []
        for line in self.places.get(image_id, []):
            box = line.numbers()
            check_box(box, self.sizes[image_id], line.where)
            boxes.append((class_id, *box))
        return boxes_text(boxes, self.sizes[image_id]) if boxes else ""

    def _mask(self, image_id: str, folder: str) -> MaskSource | None:
        lines = self.places.get(image_id, [])
        for line in lines:
            if not line.values[0]:
                raise StagingError(f"{line.where}: expected the path of a mask, saw none")
        instances, ignored = ([f"{folder}/{line.values[k]}" for line in lines if line.values[k]] for k in (0, 1))
        return files_mask(instances, ignored) if lines else None


def _names(config: WsolDataset, splits: list[_Split]) -> list[str]:
    """Names of the labels 0, 1, ...: from their file, else the labels as text."""
    if config.class_names is None:
        highest, where = max((pair for split in splits for pair in split.labels.values()), default=(0, ""))
        if highest >= MAX_LABELS:
            raise StagingError(f"{where}: expected a label 0 to {MAX_LABELS - 1}, saw {highest}")
        return [str(label) for label in range(highest + 1)]
    lines = list_text(config.root, config.class_names).splitlines()
    first: dict[str, int] = {}
    for number, name in enumerate(map(nfc, lines), start=1):
        where = f"{config.class_names}:{number}"
        if not name or name != name.strip():
            raise StagingError(f"{where}: expected a class name without surrounding space, saw {name!r}")
        if name in first:
            raise StagingError(f"{where}: expected every name once, saw {name!r}, which line {first[name]} has too")
        first[name] = number
    return list(first)


def _lines(config: WsolDataset, file: str, fields: list[str]) -> Iterator[_Line]:
    """Lines that are not empty; the last one need not end."""
    for number, text in enumerate(list_text(config.root, file).split("\n"), start=1):
        where = f"{file}:{number}"
        text = text.removesuffix("\r")
        if not text:
            continue
        parts = text.rsplit(",", len(fields) - 1)
        if len(parts) < len(fields):
            raise StagingError(f"{where}: expected {','.join(fields)}, saw {text!r}")
        image_id = check_id(parts[0], where)
        yield _Line(image_id, parts[0], parts[1:], where)


def _known(lines: Iterator[_Line], known: set[str]) -> Iterator[_Line]:
    for line in lines:
        if line.image_id not in known:
            raise StagingError(f"{line.where}: expected an id that image_ids.txt has, saw {line.image_id!r}")
        yield line


def _once(lines: Iterator[_Line]) -> dict[str, _Line]:
    found: dict[str, _Line] = {}
    for line in lines:
        if line.image_id in found:
            first = found[line.image_id].where
            raise StagingError(f"{line.where}: expected every id once, saw {line.image_id!r}, which {first} has too")
        found[line.image_id] = line
    return found


def _demand(ids: set[str], found: Collection[str], file: str, what: str) -> None:
    if missing := sorted(ids - set(found)):
        raise StagingError(
            f"{file}: expected {what} for each of {len(ids)} ids, {len(missing)} have none, the first {missing[0]!r}"
        )
