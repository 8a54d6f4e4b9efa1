"""Staging: look at every file once, build the image index, and write the ground truth as a label set."""

import hashlib
import time
from typing import Any

import numpy as np
import pyarrow as pa

from methods.audit import find_leaks, fingerprint
from storage.boxes import BOXES, boxes_table
from storage.decode import ImageRefused, decode_image, read_bytes
from storage.faults import deadly_image, dying_point
from storage.files import canonical_json, digest
from storage.index import OK, QUARANTINED, ImageIndex
from storage.labels import label_specs, to_canvas
from storage.samples import Listing, Sample, StagingError
from storage.staged import (
    FINGERPRINT,
    INSPECTED,
    STAGE_SHARD,
    Inspected,
    Stamp,
    assemble,
    inspected_row,
    mask_source,
    write_staged,
)
from storage.stages import FACTS, StageFolder
from storage.truth import mask_digest, read_truth
from tasks.context import FolderWork, Run

INDEX_UNIT = "index"
LEAKS = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("other_id", pa.string()),
        ("other_split", pa.string()),
        ("correlation", pa.float64()),
        ("orientation", pa.int8()),
        ("exact", pa.bool_()),
    ]
)


class InspectWork(FolderWork):
    """Decode and hash every listed file, 500 to a shard."""

    title = "stage"

    def __init__(self, run: Run, folder: StageFolder, listing: Listing, stamps: list[tuple[Stamp, Stamp]]) -> None:
        self.run, self.folder, self.listing, self.stamps = run, folder, listing, stamps
        self.known = Inspected(run.workspace, folder, run.config.dataset.max_pixels)

    def images(self, shard: int) -> list[int]:
        """Places of one shard in the listing: there are no rows yet."""
        return list(range(shard * STAGE_SHARD, min((shard + 1) * STAGE_SHARD, len(self.listing.samples))))

    def __call__(self, shard: int) -> None:
        """Inspect one shard."""
        began = time.monotonic()
        span = slice(shard * STAGE_SHARD, (shard + 1) * STAGE_SHARD)
        left_out = self.left_out(shard)
        pairs = enumerate(zip(self.listing.samples[span], self.stamps[span], strict=True), span.start)
        rows = [self._inspect(sample, at, left_out.get(place)) for place, (sample, (at, _)) in pairs]
        dying_point("stage")
        self.folder.write(shard, tables={FACTS: pa.Table.from_pylist(rows, INSPECTED)}, began=began)

    def _inspect(self, sample: Sample, at: Stamp, deadly: str | None) -> dict[str, Any]:
        if deadly:
            return inspected_row(sample, at, {**_new_findings(), "status": QUARANTINED, "reason": deadly}, None)
        known = None if sample.refused else self.known.find(sample.path, at)
        findings = known or self._look(sample)
        return inspected_row(sample, at, findings, self._mask_hash(sample))

    def _look(self, sample: Sample) -> dict[str, Any]:
        findings = _new_findings()
        deadly_image(sample.image_id)
        try:
            if sample.refused:
                raise ImageRefused(sample.refused)
            data = read_bytes(self.run.root, sample.path)
            findings["sha256"] = hashlib.sha256(data).hexdigest()
            image = decode_image(data, self.run.config.dataset.max_pixels)
        except ImageRefused as refusal:
            return {**findings, "status": QUARANTINED, "reason": str(refusal)}
        height, width = image.pixels.shape[:2]
        seen = {"height": height, "width": width, "mode": image.mode, "orientation": image.orientation}
        return {**findings, **seen, "fingerprint": fingerprint(image.pixels).astype(np.float16)}

    def _mask_hash(self, sample: Sample) -> str | None:
        return mask_digest(self.run.root, sample.mask, sample.source) if sample.mask else None


def _new_findings() -> dict[str, Any]:
    return {"checked_ns": time.time_ns(), "status": OK, "reason": "", "fingerprint": None}


def finish_staging(
    run: Run, folder: StageFolder, classes: tuple[str, ...], before: ImageIndex | None = None
) -> ImageIndex:
    """Build the index from the inspected shards, check for leaks between splits, and commit both.

    ``before`` is the last run's index: the new one follows it, see :func:`storage.index.build_index`.
    """
    began = time.monotonic()
    index, sources = assemble(folder, classes, before)
    if not index.ok.any():
        reasons = sorted(set(index.table.column("reason").to_pylist()))[:3]
        raise StagingError(f"{run.root}: none of {len(index)} images can be used; first reasons: {'; '.join(reasons)}")
    paths = write_staged(folder, index, sources, _leaks(index, sources))
    facts = {"index": index.key, "masks": _masks_digest(sources)}
    folder.log.commit(INDEX_UNIT, paths, facts=facts, began=began)
    return index


def _masks_digest(sources: pa.Table) -> str:
    """What the ground truth depends on beside the index: empty where no image has a mask."""
    kinds, hashes = sources.column("mask_kind").to_pylist(), sources.column("mask_sha256").to_pylist()
    return digest(canonical_json([kinds, hashes])) if any(kinds) else ""


def _leaks(index: ImageIndex, sources: pa.Table) -> pa.Table:
    """Pairs of images that show the same thing and lie in different splits."""
    rows = np.flatnonzero(index.ok)
    if len(set(index.splits)) < 2:
        return LEAKS.empty_table()
    # By way of Arrow's buffer: 256 Python floats an image would be most of the memory of a run.
    column = sources.column("fingerprint").take(pa.array(rows)).combine_chunks()
    prints = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), FINGERPRINT).astype(np.float32)
    found = []
    for leak in find_leaks(prints, [index.splits[row] for row in rows]):
        a, b = int(rows[leak.row_a]), int(rows[leak.row_b])
        found.append(
            {
                "image_id": index.ids[a],
                "split": index.splits[a],
                "other_id": index.ids[b],
                "other_split": index.splits[b],
                "correlation": float(leak.correlation),
                "orientation": int(leak.orientation),
                "exact": index.hashes[a] == index.hashes[b],
            }
        )
    return pa.Table.from_pylist(found, LEAKS)


class TruthWork(FolderWork):
    """Write the ground truth masks as a label set; images without one stay ignored."""

    title = "truth"

    def __init__(self, run: Run, folder: StageFolder, index: ImageIndex, sources: pa.Table) -> None:
        self.run, self.folder, self.index = run, folder, index
        self.sources = sources.select(["source", "mask_kind", "mask_path", "mask_text"]).to_pylist()
        self.shards = index.shards(run.config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Write one shard of masks and, as facts, how many pixels each class has."""
        began = time.monotonic()
        part = self.shards[shard]
        left_out = self.left_out(shard)
        rows = [row for row in self.images(shard) if row not in left_out]
        masks = {row: mask for row in rows if (mask := self._mask(row)) is not None}
        facts = [
            {"row": row, "class_id": int(value), "pixels": int(count)}
            for row, mask in masks.items()
            for value, count in zip(*np.unique(mask, return_counts=True), strict=True)
        ]
        schema = pa.schema([("row", pa.int64()), ("class_id", pa.int16()), ("pixels", pa.int64())])
        label = to_canvas(masks, part, fill=255)
        self.folder.write(
            shard,
            arrays={self.index.array_name("label", part.canvas): (part.object, label)},
            tables={FACTS: pa.Table.from_pylist(facts, schema)},
            began=began,
        )

    def _mask(self, row: int) -> Any:
        entry = self.sources[row]
        mask = mask_source(entry)
        if mask is None:
            return None
        labels = tuple(self.index.classes[k - 1] for k in self.index.class_ids[row])
        return read_truth(
            self.run.root,
            mask,
            classes=self.index.classes,
            labels=labels,
            size=self.index.sizes[row],
            source=entry["source"],
            max_pixels=self.run.config.dataset.max_pixels,
        )


def begin_truth(folder: StageFolder, basis: dict[str, Any], index: ImageIndex, staged: str) -> None:
    """Create the label set that the truth is written to."""
    size = int(basis["shard_images"])
    folder.begin(
        basis,
        shards=len(index.shards(size)),
        classes=index.classes,
        arrays=label_specs(index, size, names=("label",)),
        index_stage=staged,
    )


class BoxWork(FolderWork):
    """Write the ground truth boxes, upright and checked."""

    title = "boxes"

    def __init__(self, run: Run, folder: StageFolder, index: ImageIndex, sources: pa.Table) -> None:
        self.folder, self.index, self.sources = folder, index, sources
        self.shards = index.shards(run.config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Write one shard."""
        began = time.monotonic()
        left_out = self.left_out(shard)
        rows = [row for row in self.images(shard) if row not in left_out]
        table = boxes_table(self.index, self.sources, rows)
        dying_point("infer")
        self.folder.write(shard, tables={BOXES: table}, began=began)
