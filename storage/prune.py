"""What a workspace holds beyond what its last runs used, and its removal."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from storage.history import Past, past_runs
from storage.places import file_system, is_local
from storage.workspace import Workspace, WorkspaceError
from storage.writing import modified_ns, remove_file, remove_tree

WHOLE = "report"
_ROOMS = ("stages", "models", "reports")
_TRASH = ".pruned"


@dataclass(frozen=True)
class Pruning:
    """What stays and what goes.

    ``kept`` and ``dropped`` are records of runs, ``folders`` what no kept run used, ``unfinished`` what was written
    after the last run that ended: a run that was killed, or that still goes on, will want it.
    """

    kept: list[Past]
    dropped: list[Past]
    folders: list[Path]
    unfinished: list[Path]


def plan_pruning(workspace: Workspace, keep: int) -> Pruning:
    """Find out what the last ``keep`` runs did not use; nothing is touched.

    Runs of the whole pipeline count. One that ended earlier (``maskmill stage``) is kept with those after which it
    came, so that it never takes the place of a whole one.

    Parameters
    ----------
    workspace
        The workspace.
    keep
        How many runs, from 1.

    Raises
    ------
    ValueError
        ``keep`` is below 1.
    WorkspaceError
        No run has ended there yet, or the record of one is damaged.
    """
    if keep < 1:
        raise ValueError(f"--keep: expected a number of runs from 1, saw {keep}")
    runs = past_runs(workspace)
    if not runs:
        raise WorkspaceError(f"{workspace.root}: no record of a finished run; run it once, then prune")
    whole = [past for past in runs if past.last == WHOLE]
    oldest = whole[keep - 1].time if len(whole) >= keep else ""
    kept = [past for past in runs if past.time >= oldest]
    used = {name for past in kept for name in past.uses}
    ended = modified_ns(runs[0].path)
    others = [path for path in _folders(workspace) if str(path.relative_to(workspace.root)) not in used]
    unfinished = [path for path in others if _touched(path) > ended]
    folders = [path for path in others if path not in unfinished]
    return Pruning(kept, [past for past in runs if past.time < oldest], folders, unfinished)


def prune(workspace: Workspace, pruning: Pruning) -> None:
    """Remove what a plan names; only the holder of the workspace may call this.

    A kill in between leaves folders that no record names, or some in ``.pruned``: the next time takes them. In an
    object store nothing can be put aside at once, so there the commit records of a folder go first.
    """
    for past in pruning.dropped:
        remove_file(past.path)
    if not is_local(workspace.root):
        for folder in pruning.folders:
            remove_tree(folder)
        return
    trash = workspace.root / _TRASH
    for folder in pruning.folders:
        aside = trash / folder.parent.name / folder.name
        aside.parent.mkdir(parents=True, exist_ok=True)
        # At once: half of a folder must never pass for one that a run may resume.
        folder.replace(aside)
    shutil.rmtree(trash, ignore_errors=True)


def freed_bytes(folders: Iterable[Path]) -> int:
    """Bytes of files that no other name holds: what one shard took over from another shares its place on the disk."""
    folders = list(folders)
    remote = [file_system(folder) for folder in folders if not is_local(folder)]
    if remote:
        return sum(int(fs.du(name)) for fs, name in remote)
    names: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                inode = (status.st_dev, status.st_ino)
                names[inode] = names.get(inode, 0) + 1
                sizes[inode] = (status.st_size, status.st_nlink)
    return sum(size for inode, (size, links) in sizes.items() if names[inode] >= links)


def _folders(workspace: Workspace) -> list[Path]:
    found = [path for room in _ROOMS for path in (workspace.root / room).glob("[!.]*") if path.is_dir()]
    return sorted(found)


def _touched(folder: Path) -> int:
    """When something was last committed to or begun in a folder."""
    if not is_local(folder):
        return max((modified_ns(path) for path in folder.rglob("*") if path.is_file()), default=0)
    parts = [folder, *(path for path in folder.glob("*") if path.name in ("commits", "manifest.json", "checkpoint.pt"))]
    return max(path.stat().st_mtime_ns for path in parts)
