"""The staged data set: what was found out about each file, kept so that an unchanged file is never looked at twice."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.files import canonical_json, digest, read_table, write_bytes_atomic, write_table
from storage.index import OK, SCHEMA, ImageIndex, build_index, read_index
from storage.instance_files import mask_paths
from storage.samples import Listing, MaskSource, Sample
from storage.stages import FACTS, StageFolder, unit_name
from storage.workspace import Workspace
from storage.writing import modified_ns

STAGE_SHARD = 500
FINGERPRINT = 256
# A file changed within this time of its inspection could have been changed again without a new time stamp.
_RACY_NS = 2_000_000_000

_LISTED = [field for field in SCHEMA if field.name not in ("canvas_height", "canvas_width", "slot")]
INSPECTED = pa.schema(
    [
        *_LISTED,
        ("mtime_ns", pa.int64()),
        ("checked_ns", pa.int64()),
        ("source", pa.string()),
        ("mask_kind", pa.string()),
        ("mask_path", pa.string()),
        ("mask_text", pa.string()),
        ("mask_sha256", pa.string()),
        ("boxes", pa.string()),
        ("fingerprint", pa.list_(pa.float16(), FINGERPRINT)),
    ]
)
_REUSED = ("width", "height", "mode", "sha256", "status", "reason", "orientation", "fingerprint", "checked_ns")

Stamp = tuple[int, int]


def stamp(root: Path, relative: str) -> Stamp:
    """Size and modification time of a file, (-1, -1) where there is none."""
    try:
        status = (root / relative).stat()
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def stamp_all(root: Path, listing: Listing) -> list[tuple[Stamp, Stamp]]:
    """Stamps of every sample's image and mask."""
    return [(stamp(root, one.path), _mask_stamp(root, one.mask)) for one in listing.samples]


def _mask_stamp(root: Path, mask: MaskSource | None) -> Stamp:
    """Stamp of a mask; of one in several files, their size in all and a digest of every file's stamp."""
    stamps = [stamp(root, path) for path in mask_paths(mask)] if mask else []
    if len(stamps) < 2:
        return stamps[0] if stamps else (-1, -1)
    return sum(size for size, _ in stamps), int(digest(canonical_json(stamps))[:15], 16)


def listing_digest(listing: Listing, stamps: Sequence[tuple[Stamp, Stamp]]) -> str:
    """Digest of what the lists say and of the size and time of every file they name."""
    rows = [[asdict(sample), *stamp] for sample, stamp in zip(listing.samples, stamps, strict=True)]
    return digest(canonical_json({"classes": listing.classes, "rows": rows}))


def thin(listing: Listing, limit: int | None) -> Listing:
    """At most ``limit`` samples, spread evenly over the list so that every split and class folder keeps its share."""
    total = len(listing.samples)
    if limit is None or limit >= total:
        return listing
    return Listing([listing.samples[number * total // limit] for number in range(limit)], listing.classes)


class Inspected:
    """Good images of earlier inspections by path, size and time; only files that have rested since are trusted.

    What was refused is looked at again: the reason may have been another file, or a limit that has changed.
    """

    def __init__(self, workspace: Workspace, current: StageFolder, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._rows: dict[tuple[str, int, int], dict[str, Any]] = {}
        folders = [folder for folder in workspace.stages() if folder.name.startswith("stage-")]
        folders = [folder for folder in folders if folder.name != current.name]
        for folder in sorted(folders, key=lambda folder: modified_ns(folder.folder / "manifest.json"))[-1:]:
            done = folder.log.units()
            for shard in range(folder.shards):
                if unit_name(shard) in done:
                    self._add(folder.shard_table(shard))

    def _add(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            rested = 0 <= row["mtime_ns"] < row["checked_ns"] - _RACY_NS
            if rested and row["status"] == OK and row["width"] * row["height"] <= self._max_pixels:
                self._rows[row["path"], row["bytes"], row["mtime_ns"]] = {name: row[name] for name in _REUSED}

    def find(self, path: str, at: Stamp) -> dict[str, Any] | None:
        """What is known of an unchanged file."""
        return self._rows.get((path, *at))


def mask_source(row: dict[str, Any]) -> MaskSource | None:
    """Ground truth source of an inspected row."""
    if row["mask_kind"] is None:
        return None
    return MaskSource(kind=row["mask_kind"], path=row["mask_path"] or "", text=row["mask_text"] or "")


def inspected_row(sample: Sample, at: Stamp, findings: dict[str, Any], mask_sha256: str | None) -> dict[str, Any]:
    """One row of an inspection shard."""
    mask = sample.mask
    return {
        "image_id": sample.image_id,
        "path": sample.path,
        "split": sample.split,
        "labels": list(sample.labels),
        "source": sample.source,
        "bytes": at[0],
        "mtime_ns": at[1],
        "mask_kind": mask.kind if mask else None,
        "mask_path": mask.path if mask else None,
        "mask_text": mask.text if mask else None,
        "mask_sha256": mask_sha256,
        "boxes": sample.boxes,
        **findings,
    }


def assemble(
    folder: StageFolder, classes: Sequence[str], before: ImageIndex | None = None
) -> tuple[ImageIndex, pa.Table]:
    """Join the inspection shards into the index and, in the same order, what is known of every row.

    ``before`` is the index to follow, see :func:`storage.index.build_index`.
    """
    table = folder.table(FACTS)
    index = build_index(table, classes, before)
    position = {image_id: number for number, image_id in enumerate(table.column("image_id").to_pylist())}
    sources = table.take(pa.array([position[image_id] for image_id in index.ids], pa.int64()))
    return index, sources


def earlier_index(workspace: Workspace) -> ImageIndex | None:
    """The index of the last run; None where there is none, or none that can be read."""
    try:
        return read_index(workspace.index_path)
    except (FileNotFoundError, ValueError):
        return None


def read_sources(folder: StageFolder) -> pa.Table:
    """What is known of every row of the index, in run order."""
    return read_table(folder.folder / "sources.parquet")


def write_staged(folder: StageFolder, index: ImageIndex, sources: pa.Table, leaks: pa.Table) -> list[Path]:
    """Write index, sources and leak table into the stage's folder; returns the paths."""
    paths = [folder.folder / f"{name}.parquet" for name in ("images", "sources", "leaks")]
    write_bytes_atomic(paths[0], index.to_bytes())
    write_table(paths[1], sources)
    write_table(paths[2], leaks)
    return paths


def count_leaks(folder: StageFolder) -> int:
    """How many pairs of look-alikes lie in different splits of a finished stage."""
    return int(read_table(folder.folder / "leaks.parquet").num_rows)


def staged_index(folder: StageFolder) -> ImageIndex:
    """The index that a finished stage keeps."""
    return read_index(folder.folder / "images.parquet")
