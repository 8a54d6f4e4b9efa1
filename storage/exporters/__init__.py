"""Exporters: committed masks in the formats that other tools read, complete or not at all.

Each takes records (image id, path, mask) one after the other. File names never come from an image id that is not plain.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from storage.exporters.coco import export_coco
from storage.exporters.palette import voc_palette
from storage.exporters.records import Exporter, Record
from storage.exporters.voc import export_voc

__all__ = ["EXPORTERS", "Exporter", "Record", "export_coco", "export_voc", "voc_palette"]


def _voc(records: Iterable[Record], classes: Sequence[str], out: Path) -> int:
    return export_voc(((record.image_id, record.mask) for record in records), out, classes=classes)


EXPORTERS: dict[str, Exporter] = {"coco": export_coco, "voc": _voc}
"""Exporter of every format that ``maskmill export --format`` knows."""
