"""A small data set in the layout of WSOL metadata, and what staging finds in it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from configs.dataset import WsolDataset
from storage.decode import ImageRefused, read_image
from storage.index import ImageIndex
from storage.readers import read_dataset
from storage.staged import INSPECTED, assemble, inspected_row, stamp_all
from storage.stages import FACTS, StageFolder
from storage.truth import mask_digest
from storage.workspace import Workspace

SIZE = (24, 40)
FILES = ("image_ids", "class_labels", "image_sizes", "localization")


def make_wsol(
    root: Path, name: str, splits: Sequence[str] = ("train", "val", "test"), *, labels: int = 2, masks: bool = False
) -> None:
    """Write two images of each label a split: one object in the first, two in the second; masks not for ``train``.

    Images are 40 x 24; masks, as some published ones, are half as large. The last line of a file does not end.
    """
    for split in splits:
        lines: dict[str, list[str]] = {file: [] for file in FILES}
        for label in range(labels):
            for number in range(2):
                image_id = f"{split}/c{label}/no, {number}.png"
                lines["image_ids"].append(image_id)
                lines["class_labels"].append(f"{image_id},{label}")
                _picture(root / "dataset" / name / image_id, 7 * label + number + len(lines["image_ids"]))
                if masks and split != "train":
                    lines["localization"] += _masks(root / "dataset" / name, image_id, number + 1)
                elif not masks:
                    lines["image_sizes"].append(f"{image_id},{SIZE[1]},{SIZE[0]}")
                    boxes = ["4,2,20,12", "30,10,40,24"][: number + 1]
                    lines["localization"] += [f"{image_id},{box}" for box in boxes]
        for file, content in lines.items():
            path = root / "metadata" / name / split / f"{file}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(content), encoding="utf-8")


def stage_wsol(config: WsolDataset, workspace: Workspace) -> tuple[ImageIndex, pa.Table]:
    """The index of a data set and what is known of every row, by way of the inspection table."""
    listing = read_dataset(config)
    rows = []
    for sample, (at, _) in zip(listing.samples, stamp_all(config.root, listing), strict=True):
        try:
            image = read_image(config.root, sample.path, config.max_pixels)
            height, width = image.pixels.shape[:2]
            seen = {"height": height, "width": width, "mode": image.mode, "orientation": image.orientation}
            findings = {"checked_ns": 0, "status": "ok", "reason": "", "sha256": "0" * 64, "fingerprint": None, **seen}
        except ImageRefused as refusal:
            findings = {"checked_ns": 0, "status": "quarantined", "reason": str(refusal), "fingerprint": None}
        sha256 = mask_digest(config.root, sample.mask, sample.source) if sample.mask else None
        rows.append(inspected_row(sample, at, findings, sha256))
    folder = StageFolder(workspace.root / "stages" / "stage-000000000000")
    folder.begin({"of": "a test"}, shards=1)
    folder.write(0, tables={FACTS: pa.Table.from_pylist(rows, INSPECTED)})
    return assemble(folder, listing.classes)


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)


def _masks(folder: Path, image_id: str, instances: int) -> list[str]:
    """Instances beside an image and, around the first, a region to ignore; returns the lines that name them."""
    stem = image_id.removesuffix(".png").replace(",", "")
    lines = []
    for number in range(instances):
        values = np.zeros((SIZE[0] // 2, SIZE[1] // 2), bool)
        values[1 + 6 * number : 5 + 6 * number, 2:10] = True
        Image.fromarray(values).save(folder / f"{stem}_m{number}.png")
        lines.append(f"{image_id},{stem}_m{number}.png,")
    ignored = np.zeros((SIZE[0] // 2, SIZE[1] // 2), bool)
    ignored[:5, :14] = True
    Image.fromarray(ignored).save(folder / f"{stem}_ignore.png")
    lines[0] += f"{stem}_ignore.png"
    return lines
