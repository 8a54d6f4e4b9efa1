"""A stage's folder: manifest, arrays, tables and commit records of one step under one key.

``<stage>-<key>/`` belongs to exactly one configuration and one set of inputs, so nothing stale can be read and nothing
earlier is overwritten. A shard is committed in this order: its old record goes, arrays are assigned whole and flushed,
tables are renamed into place, the new record comes last.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from storage.arrays import ArraySpec, array_path, create_array, read_rows, write_shard
from storage.commits import CommitLog, Record
from storage.faults import dying_point
from storage.files import (
    SCHEMA_VERSION,
    file_digest,
    read_table,
    seal,
    short_key,
    unseal,
    write_bytes_atomic,
    write_table,
)
from storage.places import read_whole

FACTS = "facts"


class StageError(RuntimeError):
    """A stage folder that is missing, incomplete, or belongs to something else."""


class RehearsedError(RuntimeError):
    """A shard has come as far as its first write inside of :func:`rehearsal`."""


_rehearsing: ContextVar[bool] = ContextVar("rehearsing", default=False)


@contextmanager
def rehearsal() -> Iterator[None]:
    """Inside, a shard that would be written raises :class:`RehearsedError` instead: it could be computed."""
    token = _rehearsing.set(True)
    try:
        yield
    finally:
        _rehearsing.reset(token)


def unit_name(shard: int) -> str:
    """File name of a shard's record and tables."""
    return f"{shard:05d}"


def stage_key(stage: str, basis: Mapping[str, Any]) -> str:
    """Key of a stage: everything its result depends on goes into ``basis``."""
    return short_key({"stage": stage, "schema": SCHEMA_VERSION, **basis})


@dataclass(frozen=True)
class StageFolder:
    """One stage under one key."""

    folder: Path

    @property
    def name(self) -> str:
        """``<stage>-<key>``."""
        return self.folder.name

    @property
    def key(self) -> str:
        """The key alone."""
        return self.folder.name.rpartition("-")[2]

    @property
    def log(self) -> CommitLog:
        """Its commit records."""
        return CommitLog(self.folder)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What :meth:`begin` wrote.

        Raises
        ------
        StageError
            There is none.
        """
        path = self.folder / "manifest.json"
        try:
            return unseal(read_whole(path))
        except (OSError, ValueError) as error:
            raise StageError(f"{path}: expected the manifest of a stage, saw {error}") from error

    def begin(
        self,
        basis: Mapping[str, Any],
        *,
        shards: int,
        classes: Iterable[str] = (),
        arrays: Iterable[ArraySpec] = (),
        index_stage: str = "",
    ) -> None:
        """Create arrays and manifest, and take over shards that another folder has; nothing where a manifest is there.

        Parameters
        ----------
        basis
            What the key was made from.
        shards
            How many shards make the stage whole.
        classes
            Names of the labels 1..C.
        arrays
            Declarations of its arrays.
        index_stage
            Name of the stage that keeps the image index this one was made for.
        """
        if (self.folder / "manifest.json").exists():
            return
        specs = list(arrays)
        for spec in specs:
            create_array(self.folder, spec)
        # Not above: taking over reads other stages.
        from storage.adopt import adopt

        classes = tuple(classes)
        adopt(self, basis, classes, specs, index_stage)
        manifest = {
            "name": self.name,
            "basis": dict(basis),
            "index_stage": index_stage,
            "schema": SCHEMA_VERSION,
            "shards": shards,
            "classes": list(classes),
            "arrays": [spec.to_json() for spec in specs],
            "metadata": {spec.name: file_digest(array_path(self.folder, spec.name) / "zarr.json") for spec in specs},
        }
        write_bytes_atomic(self.folder / "manifest.json", seal(manifest))

    @property
    def exists(self) -> bool:
        """Whether it has a manifest."""
        return (self.folder / "manifest.json").exists()

    @property
    def shards(self) -> int:
        """How many shards make it whole."""
        return int(self.manifest["shards"])

    def spec(self, name: str) -> ArraySpec:
        """Declaration of one of its arrays."""
        for value in self.manifest["arrays"]:
            if value["name"] == name:
                return ArraySpec.from_json(value)
        raise StageError(
            f"{self.name}: expected an array {name!r}, has {[value['name'] for value in self.manifest['arrays']]}"
        )

    def missing(self) -> list[int]:
        """Numbers of the shards without a commit record, in order."""
        done = self.log.units()
        return [shard for shard in range(self.shards) if unit_name(shard) not in done]

    @property
    def complete(self) -> bool:
        """Whether every shard is committed."""
        return self.exists and not self.missing()

    def write(
        self,
        shard: int,
        *,
        arrays: Mapping[str, tuple[int, npt.NDArray[Any]]] | None = None,
        tables: Mapping[str, pa.Table] | None = None,
        facts: dict[str, Any] | None = None,
        began: float | None = None,
        device: str = "",
    ) -> Record:
        """Write and commit one shard.

        Parameters
        ----------
        shard
            Its number.
        arrays
            Per array name: number of the shard object inside that array, and its items.
        tables
            Per folder name (``facts``, ...): the shard's rows.
        facts
            Small values for the record.
        began
            ``time.monotonic()`` when the work on the shard began.
        device
            What computed it.

        Raises
        ------
        RehearsedError
            Inside of :func:`rehearsal`.
        """
        if _rehearsing.get():
            raise RehearsedError(f"{self.name}: shard {shard} would be written now")
        unit = unit_name(shard)
        began = time.monotonic() if began is None else began
        self.log.withdraw(unit)
        objects = []
        for name, (number, data) in (arrays or {}).items():
            objects.append(write_shard(self.folder, self.spec(name), number, data))
        dying_point("array")
        for name, table in (tables or {}).items():
            path = self.folder / name / f"{unit}.parquet"
            write_table(path, table)
            objects.append(path)
        dying_point("facts")
        return self.log.commit(unit, objects, facts=facts or {}, began=began, device=device)

    def table(self, name: str = FACTS, columns: list[str] | None = None) -> pa.Table:
        """Rows of all shards, in shard order.

        Raises
        ------
        StageError
            A shard is not committed: half a table would look like a whole one.
        """
        if missing := self.missing():
            raise StageError(
                f"{self.name}: expected {self.shards} committed shards, {len(missing)} are missing; run it first"
            )
        paths = [self.folder / name / f"{unit_name(shard)}.parquet" for shard in range(self.shards)]
        return pa.concat_tables([read_table(path, columns) for path in paths])

    def shard_table(self, shard: int, name: str = FACTS) -> pa.Table:
        """Rows of one committed shard."""
        self._demand(shard)
        return read_table(self.folder / name / f"{unit_name(shard)}.parquet")

    def rows(self, name: str, shard: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows of an array that belong to one committed shard."""
        self._demand(shard)
        return read_rows(self.folder, self.spec(name), start, stop)

    def _demand(self, shard: int) -> None:
        if not self.log.path(unit_name(shard)).exists():
            raise StageError(f"{self.name}: shard {shard} has no commit record; its rows do not exist yet")
