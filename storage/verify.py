"""Reading a workspace back: every committed object against the hash that was recorded when it was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.arrays import array_path
from storage.commits import FOLDER, CommitError, CommitLog
from storage.files import file_digest, unseal
from storage.index import read_index
from storage.workspace import Workspace, WorkspaceError


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was written; ``record`` is the commit record whose removal lets a run redo it."""

    path: Path
    problem: str
    record: Path | None = None


def verify_workspace(workspace: Workspace) -> tuple[int, list[Damage]]:
    """Check a whole workspace.

    Returns
    -------
    int
        How many files were read.
    list of Damage
        What was found, empty for a sound workspace.
    """
    seen, damages = 0, []
    for folder in sorted(path.parent for path in workspace.root.glob(f"*/*/{FOLDER}")):
        for checked, damage in _check_folder(folder):
            seen += checked
            if damage:
                damages.append(damage)
    for checked, damage in _check_root(workspace):
        seen += checked
        if damage:
            damages.append(damage)
    return seen, damages


def repair(damages: list[Damage]) -> int:
    """Remove the commit records of what is damaged, so that the next run computes it anew; returns how many."""
    records = {damage.record for damage in damages if damage.record is not None}
    for record in records:
        record.unlink(missing_ok=True)
    return len(records)


def _check_folder(folder: Path) -> Iterator[tuple[int, Damage | None]]:
    log = CommitLog(folder)
    for unit in sorted(log.units()):
        record_path = log.path(unit)
        try:
            record = log.read(unit)
        except CommitError as error:
            yield 1, Damage(record_path, str(error), record_path)
            continue
        yield 1, None
        for name, claimed in record.objects.items():
            yield 1, _compare(folder / name, claimed, record_path)
    yield from _check_manifest(folder)


def _check_manifest(folder: Path) -> Iterator[tuple[int, Damage | None]]:
    path = folder / "manifest.json"
    if not path.exists():
        return
    try:
        manifest = unseal(path.read_bytes())
    except (OSError, ValueError) as error:
        yield 1, Damage(path, f"{error}; delete the folder and run again")
        return
    yield 1, None
    for name, claimed in manifest["metadata"].items():
        yield 1, _compare(array_path(folder, name) / "zarr.json", claimed, None)


def _compare(path: Path, claimed: str, record: Path | None) -> Damage | None:
    try:
        found = file_digest(path)
    except OSError as error:
        return Damage(path, f"expected a readable file, saw {error}", record)
    return None if found == claimed else Damage(path, f"expected sha256 {claimed[:12]}…, saw {found[:12]}…", record)


def _check_root(workspace: Workspace) -> Iterator[tuple[int, Damage | None]]:
    try:
        run = workspace.read_run()
    except WorkspaceError as error:
        yield 1, Damage(workspace.root / "run.json", str(error))
        return
    yield 1, None
    if workspace.index_path.exists() or run["index_sha256"]:
        damage = _compare(workspace.index_path, run["index_sha256"] or "", None)
        if damage is None:
            try:
                read_index(workspace.index_path)
            except (OSError, ValueError) as error:
                damage = Damage(workspace.index_path, str(error))
        yield 1, damage
