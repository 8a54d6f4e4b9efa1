"""Schema of the ``dataset`` section: one model per format, told apart by ``format``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_CLASSES = 254
"""Masks are bytes: 0 is background and 255 ignore."""
MAX_LABELS = 1000
"""Most classes of a data set whose ground truth is boxes: its masks tell only an image's own classes apart."""


class Section(BaseModel):
    """Base of every section: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _as_path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value else value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Location = Annotated[Path, BeforeValidator(_as_path)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)]
ClassNames = Annotated[Names, Field(min_length=1, max_length=MAX_CLASSES)]
LabelNames = Annotated[Names, Field(min_length=1, max_length=MAX_LABELS)]
Splits = Annotated[Names, Field(min_length=1)]


class _Dataset(Section):
    root: Location
    """Folder that every path of the data set is relative to; files outside of it are refused."""
    classes: ClassNames | None = None
    """Class names in the order of their ids 1..C. Default: those found, sorted."""
    max_pixels: int = Field(default=50_000_000, gt=0)
    """Images with more pixels (by their header) are quarantined before they are decoded."""


class VocDataset(_Dataset):
    """PASCAL VOC layout. Lists hold ids, or image-path mask-path pairs."""

    format: Literal["voc"]
    split: Splits = ["train", "val"]
    lists: str = "ImageSets/Segmentation"
    """Folder of the list files; split ``train`` is read from ``<lists>/train.txt``."""
    images: str = "JPEGImages"
    annotations: str = "Annotations"
    masks: str | None = "SegmentationClass"
    palette: Literal["auto", "index", "rgb"] = "auto"
    """How masks are written: palette or grey indices, or RGB in the VOC colours."""
    labels_from: Literal["xml", "mask"] = "xml"
    """Image-level labels from the XML objects, or from the class ids that the mask holds."""


class Ksdd2Dataset(_Dataset):
    """KolektorSDD2: ``train/NNNNN.png`` and ``NNNNN_GT.png``; one class, no label where the mask is empty."""

    format: Literal["ksdd2"]
    split: Splits = ["train", "test"]


class FolderDataset(_Dataset):
    """``<root>/<split>/<class>/*`` (or ``<root>/<class>/*``), optional masks in a parallel folder."""

    format: Literal["folder"]
    split: Splits | None = None
    """Names of the split folders; default: no split level, every image is in split ``all``."""
    masks: str | None = None
    """Folder with one mask per image at the same relative path, any image suffix."""
    mask_values: Literal["index", "binary"] = "index"
    unlabelled: Names = []
    """Class folders whose images show none of the classes (for example ``good``)."""


class TableDataset(_Dataset):
    """A CSV or Parquet table: one row per image."""

    format: Literal["table"]
    table: str
    """Path of the table below root."""
    split: Splits | None = None
    """Values of the split column to take; default: all."""
    id: str | None = None
    """Column of the image id; default: the path."""
    path: str = "path"
    labels: str | None = None
    """Column with labels joined by ``separator``; or give ``label_columns``."""
    label_columns: ClassNames | None = None
    """One 0/1 column per class, in class order."""
    separator: str = ";"
    mask: str | None = None
    """Column of the mask path."""
    mask_values: Literal["index", "binary"] = "index"
    """``index``: 0 background, 1..C class, 255 ignore. ``binary``: above 127 is the image's only label."""
    split_column: str | None = None


class CocoDataset(_Dataset):
    """COCO instances; categories in id order unless ``classes`` names them."""

    format: Literal["coco"]
    split: Splits = ["train2017", "val2017"]
    annotations: str = "annotations/instances_{split}.json"
    images: str = "{split}"


class WsolDataset(_Dataset):
    """WSOL metadata (CUB-200-2011, ImageNet, OpenImages): text files per split, one label an image, boxes or masks."""

    format: Literal["wsol"]
    split: Splits = ["train", "val", "test"]
    metadata: str = "metadata/{split}"
    """Folder of a split's image_ids.txt, class_labels.txt, image_sizes.txt and localization.txt."""
    images: str = "dataset"
    """Folder that the image ids are paths in."""
    masks: str | None = None
    """Folder that localization.txt names masks in; default: it holds boxes, in pixels of image_sizes.txt."""
    class_names: str | None = None
    """File with one name a line, line n for label n - 1; default: the labels themselves, ``"0"``, ``"1"`` ..."""
    classes: LabelNames | None = None
    """Names of the classes to keep, in the order of their ids; images of others are left out. Default: all."""

    @model_validator(mode="after")
    def _masks_hold_few_classes(self) -> "WsolDataset":
        if self.masks is not None and len(self.classes or []) > MAX_CLASSES:
            raise ValueError(
                f"classes: expected at most {MAX_CLASSES} where there are masks, saw {len(self.classes or [])}"
            )
        return self


Dataset = Annotated[
    VocDataset | Ksdd2Dataset | FolderDataset | TableDataset | CocoDataset | WsolDataset,
    Field(discriminator="format"),
]
