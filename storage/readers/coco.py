"""COCO instances: one JSON file for each split, with images, annotations and categories."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from configs.dataset import CocoDataset
from storage.instances import IGNORE, instances_text
from storage.readers.listing import Classes, check_id, list_text, make_listing, nfc
from storage.samples import Listing, MaskSource, Sample, StagingError


def read_coco(config: CocoDataset) -> Listing:
    """List the images of COCO instance files, in the files' order.

    Ids are COCO's own as text; where splits share some, ``<split>/<id>``. Categories become the class ids 1..C in the
    order of their own ids, or as ``classes`` names them. Every annotation labels its image; crowds are ignored pixels.
    An image with an annotation that has no segmentation has no mask: its pixels are not all known.

    Parameters
    ----------
    config
        Section ``dataset`` with ``format: coco``.

    Raises
    ------
    StagingError
        A file that cannot be understood, splits with different categories, a category that is no class, references
        to images or categories that are not there, an id twice.
    """
    splits = [_Split.load(config, split) for split in config.split]
    for other in splits[1:]:
        if other.categories != splits[0].categories:
            raise StagingError(f"{other.file}: expected the categories of {splits[0].file}, saw others")
    found = [name for _, name in sorted(splits[0].categories.items())]
    names = [nfc(name) for name in config.classes or found]
    classes = Classes(names)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    times = Counter(image_id for split in splits for image_id in {str(image["id"]) for image in split.images})
    shared = any(count > 1 for count in times.values())
    samples = []
    for split in splits:
        by_image = split.by_image()
        samples += [
            split.sample(config, classes, numbers, by_image, place, shared) for place in range(len(split.images))
        ]
    return make_listing(samples, classes, ", ".join(split.file for split in splits))


@dataclass(frozen=True, slots=True)
class _Split:
    name: str
    file: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]

    @classmethod
    def load(cls, config: CocoDataset, split: str) -> "_Split":
        file = config.annotations.replace("{split}", split)
        try:
            content = json.loads(list_text(config.root, file))
            images, annotations = list(content["images"]), list(content["annotations"])
            categories = {int(entry["id"]): nfc(str(entry["name"])) for entry in content["categories"]}
            _check_types(images, {"id": (int, str), "file_name": str, "height": int, "width": int})
            _check_types(annotations, {"image_id": (int, str), "category_id": int})
        except (json.JSONDecodeError, RecursionError) as error:
            raise StagingError(f"{file}: expected JSON, saw {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise StagingError(f"{file}: expected COCO instances, saw {type(error).__name__}: {error}") from error
        if len(set(categories.values())) < len(content["categories"]):
            raise StagingError(f"{file}: expected every category once, saw {', '.join(categories.values())}")
        return cls(split, file, images, annotations, categories)

    def by_image(self) -> dict[Any, list[dict[str, Any]]]:
        """Annotations of each image, in the file's order."""
        grouped: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for place, annotation in enumerate(self.annotations):
            where = f"{self.file}: annotation {annotation.get('id', f'number {place + 1}')}"
            if annotation["image_id"] not in grouped:
                raise StagingError(f"{where}: expected the id of an image, saw {annotation['image_id']!r}")
            if annotation["category_id"] not in self.categories:
                raise StagingError(f"{where}: expected the id of a category, saw {annotation['category_id']!r}")
            grouped[annotation["image_id"]].append(annotation)
        return grouped

    def sample(
        self,
        config: CocoDataset,
        classes: Classes,
        numbers: dict[str, int],
        by_image: dict[Any, list[dict[str, Any]]],
        place: int,
        shared: bool,
    ) -> Sample:
        """The image at ``place`` of the file."""
        image = self.images[place]
        source = f"{self.file}: image {place + 1} (id {image['id']})"
        image_id = check_id(f"{self.name}/{image['id']}" if shared else str(image["id"]), source)
        path = str(PurePosixPath(config.images.replace("{split}", self.name)) / image["file_name"])
        entries = by_image[image["id"]]
        names = [self.categories[entry["category_id"]] for entry in entries]
        labels = classes.check(names, source)
        mask = None
        if all(entry.get("segmentation") for entry in entries):
            instances = [
                (IGNORE if entry.get("iscrowd") else numbers[name], entry["segmentation"])
                for entry, name in zip(entries, names, strict=True)
            ]
            mask = MaskSource("coco", text=instances_text(instances, (image["height"], image["width"])))
        return Sample(image_id, path, self.name, labels, source, mask=mask)


def _check_types(entries: list[dict[str, Any]], types: dict[str, Any]) -> None:
    for number, entry in enumerate(entries, start=1):
        for name, kind in types.items():
            if not isinstance(entry[name], kind):
                raise TypeError(f"{name} {entry[name]!r} in entry {number}")
