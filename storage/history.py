"""The history of a workspace: one small sealed record for every run that ended well, and what it used.

``runs/<time>-<key>.json`` beside ``run.json``: the key is that of what the run used, so a nightly run that found
nothing new replaces its own record with a later one instead of adding to the list.
"""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.files import seal, short_key, unseal, write_bytes_atomic
from storage.places import read_whole
from storage.workspace import Workspace, WorkspaceError
from storage.writing import remove_file

FOLDER = "runs"
_TIME = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class Past:
    """A run that ended well.

    ``last`` is the step it ended with, ``uses`` are the folders of stages, models and reports that it read or wrote,
    relative to the workspace, ``facts`` what else was worth keeping.
    """

    path: Path
    time: str
    last: str
    uses: tuple[str, ...]
    facts: dict[str, Any]


def remember(workspace: Workspace, last: str, uses: Iterable[Path], facts: dict[str, Any] | None = None) -> Past:
    """Record a run that has ended well; the earlier record of one that used the same goes.

    Parameters
    ----------
    workspace
        Where it ran.
    last
        Step it ended with.
    uses
        Folders below the workspace.
    facts
        Small JSON values worth keeping.
    """
    names = sorted({str(path.relative_to(workspace.root)) for path in uses})
    key = short_key({"last": last, "uses": names})
    folder = workspace.root / FOLDER
    earlier = list(folder.glob(f"[!.]*-{key}.json"))
    time = datetime.now(UTC).strftime(_TIME)
    record = {"time": time, "last": last, "uses": names, "facts": facts or {}, "host": platform.node()}
    path = folder / f"{time}-{key}.json"
    write_bytes_atomic(path, seal(record))
    for one in earlier:
        remove_file(one)
    return Past(path, time, last, tuple(names), facts or {})


def past_runs(workspace: Workspace) -> list[Past]:
    """The runs of a workspace, the latest first.

    Raises
    ------
    WorkspaceError
        A record is damaged: what that run used is not known.
    """
    found = []
    for path in (workspace.root / FOLDER).glob("[!.]*.json"):
        try:
            record = unseal(read_whole(path))
            found.append(Past(path, record["time"], record["last"], tuple(record["uses"]), record["facts"]))
        except (OSError, ValueError, KeyError) as error:
            raise WorkspaceError(
                f"{path}: expected the record of a run, saw {error}; delete it, then run again"
            ) from error
    return sorted(found, key=lambda past: past.time, reverse=True)
