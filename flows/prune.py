"""Prune: give back the space of what the last runs of a workspace did not use."""

from pathlib import Path

from flows.cli import FINISHED, HELD, REFUSED
from flows.commands import say
from storage.prune import Pruning, freed_bytes, plan_pruning, prune
from storage.workspace import Workspace, WorkspaceError, WorkspaceHeldError


def prune_command(folder: Path, keep: int, *, dry: bool) -> int:
    """Remove the stages, models and reports that none of the last ``keep`` runs used; only tell of them if ``dry``.

    Returns
    -------
    int
        Exit status: 2 where there is nothing to go by, 3 where a run holds the workspace.
    """
    workspace = Workspace(folder)
    if not workspace.root.is_dir():
        say(f"refused: no workspace at {folder}")
        return REFUSED
    try:
        if dry:
            _tell(workspace, plan_pruning(workspace, keep), "would be freed")
        else:
            with workspace.hold():
                pruning = plan_pruning(workspace, keep)
                _tell(workspace, pruning, "freed")
                prune(workspace, pruning)
    except WorkspaceHeldError as error:
        say(f"held: {error}")
        return HELD
    except (ValueError, WorkspaceError) as error:
        say(f"refused: {error}")
        return REFUSED
    return FINISHED


def _tell(workspace: Workspace, pruning: Pruning, verb: str) -> None:
    for past in pruning.kept:
        print(f"keeps    run of {past.time}, up to {past.last}, {len(past.uses)} folders")
    for path in pruning.unfinished:
        print(f"keeps    {path.relative_to(workspace.root)}, of a run that has not ended")
    for path in pruning.folders:
        print(f"removes  {path.relative_to(workspace.root)}")
    print(f"{len(pruning.folders)} folders, {freed_bytes(pruning.folders)} bytes {verb}")
