"""Commit records: the one proof that a unit of work is done and whole.

A record names every object that the unit wrote, with its SHA-256, and carries a digest of itself, so that a flipped bit
anywhere is found by :mod:`storage.verify`. It is written last; whatever has no record does not exist.
"""

import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.faults import dying_point
from storage.files import file_digest, seal, unseal, write_bytes_atomic
from storage.places import read_whole
from storage.writing import file_names, remove_file

FOLDER = "commits"


class CommitError(RuntimeError):
    """A commit record that cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Record:
    """A commit record: the unit's name, what it wrote, and what it had to say."""

    unit: str
    objects: dict[str, str]
    facts: dict[str, Any]
    seconds: float
    device: str
    host: str


class CommitLog:
    """The records of one folder; unit names are plain file names such as ``00007`` or ``metrics``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, unit: str) -> Path:
        """Where the record of ``unit`` lies."""
        return self.folder / FOLDER / f"{unit}.json"

    def units(self) -> set[str]:
        """Names of the committed units; one listing of the folder."""
        names = file_names(self.folder / FOLDER)
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def withdraw(self, unit: str) -> None:
        """Remove a record before its objects are written anew."""
        path = self.path(unit)
        if path.exists():
            remove_file(path)

    def commit(
        self, unit: str, objects: Iterable[Path], *, facts: dict[str, Any], began: float, device: str = ""
    ) -> Record:
        """Write the record of a unit whose objects are on the disk.

        Parameters
        ----------
        unit
            Its name.
        objects
            Files the unit wrote, below the folder.
        facts
            Small JSON values worth keeping.
        began
            ``time.monotonic()`` when the unit began.
        device
            What computed it.
        """
        record = Record(
            unit=unit,
            objects={str(path.relative_to(self.folder)): file_digest(path) for path in sorted(objects)},
            facts=facts,
            seconds=round(time.monotonic() - began, 3),
            device=device,
            host=platform.node(),
        )
        dying_point("commit")
        write_bytes_atomic(self.path(unit), seal({name: getattr(record, name) for name in Record.__slots__}))
        return record

    def read(self, unit: str) -> Record:
        """The record of a committed unit.

        Raises
        ------
        CommitError
            No record, or one whose bytes are not what was written.
        """
        path = self.path(unit)
        try:
            record = Record(**unseal(read_whole(path)))
            if record.unit != unit:
                raise ValueError(f"the record of {record.unit}")
        except (OSError, ValueError, TypeError) as error:
            raise CommitError(
                f"{path}: expected a whole commit record, saw {error}; run `maskmill verify --repair`"
            ) from error
        return record
