"""Taking over shards: what an earlier run made of the same images under the same settings is not computed again.

A stage's key covers the whole index, so one new image gives every later stage a new key and an empty folder. Most of
its shards would come out as they are in the folder of the run before. So where a stage begins, each of its shards is
looked for in its *kin*: folders of the same stage whose manifest says the same in everything but the images. That is
the basis without the index, and with every stage that it names replaced by what makes that stage kin in turn; weights
are in it by their hash, so a network that was trained anew has no kin. A shard is the same if its images are: their
ids, contents, sizes, labels, splits, ground truth and places, in order (:func:`shard_key`).

What is taken over gets a commit record of its own. Array objects are hard links (copies where a file system has none),
checked against the recorded hash; tables are written anew where rows or pairs are numbered differently now. Both
folders stay whole if either is pruned. A shard that cannot be taken over for any reason is computed.

This is sound because the work on a shard looks at the shard's images only. The bytes are those of the run that computed
them: another batch, device or version may round differently, as in any resumed run.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import ArrayError, ArraySpec, array_path, read_rows, write_shard
from storage.aside import read_aside, set_aside
from storage.commits import CommitError, Record
from storage.files import SCHEMA_VERSION, file_digest, read_table, short_key, write_table
from storage.index import ImageIndex, Shard, read_index
from storage.stages import StageError, StageFolder, unit_name
from storage.writing import link_file, modified_ns

BY_CANVAS = ("label", "confidence")
"""Arrays with one object per shard of a canvas; all others have one per shard of the run."""
_OF_IMAGES = ("index", "masks")
_NAME = re.compile(r"[a-z]+-[0-9a-f]{12}")
TRUTH = ("mask_kind", "mask_sha256", "boxes", "orientation")
"""What staging knows of an image's ground truth."""
_NUMBERED = ("pair", "place")
"""Columns that count the items of an array, from the first of the shard's object on."""


@dataclass(frozen=True)
class Layout:
    """The images behind a stage: their index, its shards, and what each shard is known by."""

    index: ImageIndex
    shards: list[Shard]
    keys: list[str]


@dataclass(frozen=True)
class _Side:
    """One end of a take-over: folder, arrays, what the folder came from, and the shard there."""

    folder: StageFolder
    arrays: Mapping[str, ArraySpec]
    basis: Mapping[str, Any]
    layout: Layout
    shard: Shard

    def array(self, base: str) -> str:
        """Name of an array here."""
        return self.layout.index.array_name(base, self.shard.canvas) if base in BY_CANVAS else base

    def number(self, base: str) -> int:
        """Number of the shard's object in an array."""
        return self.shard.object if base in BY_CANVAS else self.shard.number

    @property
    def first_item(self) -> int | None:
        """First item of the shard in the array that its tables count, None where there is none."""
        room = _room(self.folder.folder.parent, list(self.arrays.values()), self.basis)
        return None if room is None else self.shard.number * room


def kin_key(stages: Path, name: str, basis: Mapping[str, Any], classes: Iterable[str]) -> str:
    """What a stage depends on apart from the images.

    Parameters
    ----------
    stages
        Folder of all stages of a workspace.
    name
        ``<stage>-<key>``.
    basis
        What its key was made from.
    classes
        Names of its classes.
    """
    stage = name.rpartition("-")[0]
    kept = {key: value for key, value in basis.items() if key not in _OF_IMAGES and (stage, key) != ("boxes", "boxes")}
    return short_key({"stage": stage, "classes": list(classes), "basis": _without_images(stages, kept)})


def _without_images(stages: Path, value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_images(stages, one) for key, one in value.items()}
        case list() | tuple():
            return [_without_images(stages, one) for one in value]
        case str() if _NAME.fullmatch(value) and (found := StageFolder(stages / value)).exists:
            return {"kin": kin_key(stages, value, found.manifest["basis"], found.manifest["classes"])}
    return value


def shard_key(index: ImageIndex, sources: pa.Table, shard: Shard) -> str:
    """What the images of a shard are: everything that the work on it could see, their row numbers apart."""
    first, count = shard.rows.start, len(shard.rows)
    columns = ["image_id", "split", "width", "height", "sha256", "labels", "status"]
    seen = index.table.select(columns).slice(first, count).to_pylist()
    truth = sources.select(list(TRUTH)).slice(first, count).to_pylist()
    return short_key({"canvas": shard.canvas, "places": list(shard.offsets), "rows": seen, "truth": truth})


def layout_of(stages: Path, index_stage: str, shard_images: int) -> Layout:
    """The images that stages were made for, by the name of the stage that keeps their index."""
    folder = stages / index_stage
    return _layout(folder, shard_images, modified_ns(folder / "images.parquet"))


@lru_cache(maxsize=4)
def _layout(folder: Path, shard_images: int, _modified: int) -> Layout:
    index, sources = read_index(folder / "images.parquet"), read_table(folder / "sources.parquet")
    shards = index.shards(shard_images)
    return Layout(index, shards, [shard_key(index, sources, shard) for shard in shards])


def known_shards(stages: Path, index_stage: str, shard_images: int) -> int:
    """Shards whose images an earlier data set of the workspace had in one shard, too: what may be taken over."""
    others = [path.parent.name for path in stages.glob("stage-*/sources.parquet") if path.parent.name != index_stage]
    before = {key for name in others for key in layout_of(stages, name, shard_images).keys}
    return sum(key in before for key in layout_of(stages, index_stage, shard_images).keys)


def adopt(
    folder: StageFolder,
    basis: Mapping[str, Any],
    classes: Iterable[str],
    arrays: Sequence[ArraySpec],
    index_stage: str,
) -> int:
    """Take over the shards of a stage that begins from its kin; returns how many.

    Called before the manifest is written, so that a kill in between begins again and never leaves less to take over.

    Parameters
    ----------
    folder
        The stage, its arrays created.
    basis, classes, arrays, index_stage
        As in :meth:`storage.stages.StageFolder.begin`.
    """
    stages, size = folder.folder.parent, basis.get("shard_images")
    known = (stages / index_stage / "sources.parquet").exists()
    if not index_stage or not known or not isinstance(size, int):
        return 0
    layout, taken = layout_of(stages, index_stage, size), 0
    specs = {spec.name: spec for spec in arrays}
    done = folder.log.units()
    todo = {key: shard for key, shard in zip(layout.keys, layout.shards) if unit_name(shard.number) not in done}
    for kin in _kin(folder, kin_key(stages, folder.name, basis, classes)):
        if not todo:
            break
        theirs = layout_of(stages, str(kin.manifest["index_stage"]), size)
        units, old_specs = kin.log.units(), [ArraySpec.from_json(one) for one in kin.manifest["arrays"]]
        for key, shard in zip(theirs.keys, theirs.shards):
            if key not in todo or unit_name(shard.number) not in units:
                continue
            old = _Side(kin, {spec.name: spec for spec in old_specs}, kin.manifest["basis"], theirs, shard)
            if _take(old, _Side(folder, specs, basis, layout, todo[key])):
                del todo[key]
                taken += 1
    return taken


def _kin(folder: StageFolder, key: str) -> Iterator[StageFolder]:
    """Folders that differ in nothing but the images, the latest first."""
    stage, stages = folder.name.rpartition("-")[0], folder.folder.parent
    paths = [path for path in stages.glob(f"{stage}-*/manifest.json") if path.parent != folder.folder]
    for path in sorted(paths, key=modified_ns, reverse=True):
        other = StageFolder(path.parent)
        try:
            manifest = other.manifest
            readable = (stages / str(manifest["index_stage"]) / "sources.parquet").exists()
        except StageError:  # Damaged: nothing is taken from it, and `verify` tells.
            continue
        same = manifest["schema"] == SCHEMA_VERSION and manifest["index_stage"] and readable
        if same and kin_key(stages, other.name, manifest["basis"], manifest["classes"]) == key:
            yield other


def _take(old: _Side, new: _Side) -> bool:
    """Take over one shard; False, and nothing committed, where it is not what its record says or does not fit."""
    began, unit = time.monotonic(), unit_name(new.shard.number)
    try:
        record = old.folder.log.read(unit_name(old.shard.number))
        objects = [_take_object(old, new, name, claimed) for name, claimed in record.objects.items()]
    except (CommitError, StageError, ArrayError, OSError, pa.ArrowInvalid, _UnfitError):
        return False
    shift = new.shard.rows.start - old.shard.rows.start
    if aside := read_aside(old.folder, old.shard.number):
        set_aside(new.folder, new.shard.number, {row + shift: reason for row, reason in aside.items()})
    new.folder.log.commit(unit, objects, facts=_facts(old, record), began=began, device=record.device)
    return True


class _UnfitError(Exception):
    """An object that cannot be taken over."""


def _facts(old: _Side, record: Record) -> dict[str, Any]:
    """What the record said, and who computed the shard in the first place."""
    origin = {"folder": old.folder.name, "unit": record.unit, "seconds": record.seconds, "host": record.host}
    return {"adopted": origin, **record.facts}


def _take_object(old: _Side, new: _Side, name: str, claimed: str) -> Path:
    path = old.folder.folder / name
    if file_digest(path) != claimed:
        raise _UnfitError(name)
    first, *rest = Path(name).parts
    if first.endswith(".zarr"):
        return _take_array(old, new, first.removesuffix(".zarr"), path)
    if rest == [f"{unit_name(old.shard.number)}.parquet"]:
        return _take_table(old, new, first, path)
    raise _UnfitError(name)


def _take_array(old: _Side, new: _Side, name: str, path: Path) -> Path:
    base = next((base for base in BY_CANVAS if name == old.array(base)), name)
    before, after = old.arrays[name], new.arrays.get(new.array(base))
    if after is None or (before.item, before.dtype, before.fill) != (after.item, after.dtype, after.fill):
        raise _UnfitError(name)
    number = new.number(base)
    if before.shard_rows == after.shard_rows:
        target = array_path(new.folder.folder, after.name).joinpath("c", str(number), *["0"] * len(after.item))
        return link_file(path, target)
    first = old.number(base) * before.shard_rows
    items = read_rows(old.folder.folder, before, first, first + before.shard_rows)
    rest = items[after.shard_rows :]
    if not (rest == np.asarray(before.fill, before.dtype)).all():
        raise _UnfitError(name)
    return write_shard(new.folder.folder, after, number, items[: after.shard_rows])


def _take_table(old: _Side, new: _Side, name: str, path: Path) -> Path:
    target = new.folder.folder / name / f"{unit_name(new.shard.number)}.parquet"
    table = read_table(path)
    moved = _renumber(table, "row", old.shard.rows.start, new.shard.rows.start)
    for column in _NUMBERED:
        # A table that counts no array has -1 throughout.
        if column in table.column_names and pc.any(pc.greater_equal(table.column(column), 0)).as_py():
            before, after = old.first_item, new.first_item
            if before is None or after is None:
                raise _UnfitError(name)
            moved = _renumber(moved, column, before, after)
    if moved is table:
        return link_file(path, target)
    write_table(target, moved)
    return target


def _renumber(table: pa.Table, column: str, before: int, after: int) -> pa.Table:
    """Shift the numbers from 0 of a column; -1 means none and stays."""
    if column not in table.column_names or before == after:
        return table
    place, values = table.column_names.index(column), table.column(column)
    shifted = pc.if_else(pc.greater_equal(values, 0), pc.add(values, after - before), values)
    return table.set_column(place, table.schema.field(column), shifted.cast(values.type))


def _room(stages: Path, arrays: Sequence[ArraySpec], basis: Mapping[str, Any]) -> int | None:
    """Items that an object of the counted array has room for: the stage's own, else that of the maps it comes from."""
    own = [spec.shard_rows for spec in arrays if spec.name.split("-")[0] not in BY_CANVAS]
    if own:
        return own[0]
    proposal = basis.get("proposal")
    if not isinstance(proposal, str) or not (source := StageFolder(stages / proposal)).exists:
        return None
    specs = [ArraySpec.from_json(one) for one in source.manifest["arrays"]]
    return _room(stages, specs, source.manifest["basis"])
