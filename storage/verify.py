"""Reading a workspace back: every committed object against the hash that was recorded when it was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.arrays import array_path
from storage.commits import FOLDER, CommitError, CommitLog
from storage.files import file_digest, unseal
from storage.places import read_whole
from storage.workspace import Workspace
from storage.writing import remove_file, remove_tree


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was written; removing ``remedy`` (a record, a file or a folder) lets a run redo it."""

    path: Path
    problem: str
    remedy: Path


Finding = tuple[int, Damage | None]


def verify_workspace(workspace: Workspace) -> tuple[int, list[Damage]]:
    """Check a whole workspace; one that a kill left half done is sound as long as what is committed is whole.

    Returns
    -------
    int
        How many files were read.
    list of Damage
        What was found, empty for a sound workspace.
    """
    findings = list(_check_root(workspace))
    for folder in sorted(path.parent for path in workspace.root.glob(f"*/*/{FOLDER}")):
        findings += _check_folder(folder)
    return sum(checked for checked, _ in findings), [damage for _, damage in findings if damage]


def repair(damages: list[Damage]) -> int:
    """Remove what stands in the way of computing the damaged parts anew; returns how many things were removed."""
    remedies = {damage.remedy for damage in damages}
    for remedy in remedies:
        if remedy.is_dir():
            remove_tree(remedy)
        else:
            remove_file(remedy)
    return len(remedies)


def _check_folder(folder: Path) -> Iterator[Finding]:
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


def _check_manifest(folder: Path) -> Iterator[Finding]:
    """Manifest and array metadata: without them nothing there can be read, so the remedy is the whole folder."""
    path = folder / "manifest.json"
    if not path.exists():
        return
    try:
        manifest = unseal(read_whole(path))
    except (OSError, ValueError) as error:
        yield 1, Damage(path, str(error), folder)
        return
    yield 1, None
    for name, claimed in manifest["metadata"].items():
        yield 1, _compare(array_path(folder, name) / "zarr.json", claimed, folder)


def _compare(path: Path, claimed: str, remedy: Path) -> Damage | None:
    try:
        found = file_digest(path)
    except OSError as error:
        return Damage(path, f"expected a readable file, saw {error}", remedy)
    return None if found == claimed else Damage(path, f"expected sha256 {claimed[:12]}…, saw {found[:12]}…", remedy)


def _check_root(workspace: Workspace) -> Iterator[Finding]:
    """The records of runs, and the index, which has to be the copy of one that a stage committed."""
    for path in [workspace.root / "run.json", *sorted((workspace.root / "runs").glob("[!.]*.json"))]:
        if not path.exists():
            continue
        try:
            unseal(read_whole(path))
        except (OSError, ValueError) as error:
            yield 1, Damage(path, f"expected the record of a run, saw {error}", path)
        else:
            yield 1, None
    index = workspace.index_path
    if index.exists():
        copies = workspace.root.glob(f"stages/*/{index.name}")
        known = read_whole(index) in (read_whole(copy) for copy in copies)
        yield 1, None if known else Damage(index, "expected the copy of a staged index, saw other bytes", index)
