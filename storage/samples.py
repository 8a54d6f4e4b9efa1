"""What a reader of a data set hands over: one :class:`Sample` per image, and the errors of staging."""

from dataclasses import dataclass
from typing import Literal

MaskKind = Literal["index", "binary", "voc_rgb", "voc_auto", "coco", "files"]


class StagingError(ValueError):
    """A data set that contradicts itself; the message names file, row, what was expected and what was seen."""


@dataclass(frozen=True, slots=True)
class MaskSource:
    """Where the ground truth of one image comes from.

    ``kind`` tells how to read it: ``index`` (palette or grey class ids), ``binary`` (above 127 is the image's only
    label), ``voc_rgb`` (the VOC colours), ``voc_auto`` (``index`` or ``voc_rgb`` by the mode of the file), ``coco``
    (``text`` holds the instances as JSON instead of ``path``), ``files`` (``text`` names mask files of instances and of
    ignored regions).
    """

    kind: MaskKind
    path: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set as its lists describe it; nothing has been decoded yet.

    ``path`` and ``mask.path`` are relative to the data root, with forward slashes. ``source`` names file and row for
    error messages. ``boxes`` is what :func:`storage.boxes.boxes_text` gives, empty where the data set has none.
    ``refused`` is a reason to quarantine the image before it is looked at.
    """

    image_id: str
    path: str
    split: str
    labels: tuple[str, ...]
    source: str
    mask: MaskSource | None = None
    boxes: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """All samples of a data set, in run order, and its classes in the order of their ids 1..C."""

    samples: list[Sample]
    classes: tuple[str, ...]
