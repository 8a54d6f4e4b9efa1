"""Commands that only read a workspace: status, verify, export."""

from pathlib import Path

from configs.dataset import MAX_CLASSES
from flows.cli import FAILED, FINISHED, REFUSED
from flows.commands import say
from flows.status import status_lines
from storage.exporters import EXPORTERS, Record
from storage.index import read_index
from storage.labels import LabelStore, index_of
from storage.stages import StageFolder
from storage.verify import repair, verify_workspace
from storage.workspace import Workspace, WorkspaceError


def status_command(folder: Path) -> int:
    """Print what a workspace holds: owner, failure, stages, models, images, quarantine and reports."""
    workspace = Workspace(folder)
    if not workspace.root.is_dir():
        say(f"refused: no workspace at {folder}")
        return REFUSED
    print("\n".join(status_lines(workspace)))
    return FINISHED


def verify_command(folder: Path, *, repair_damage: bool) -> int:
    """Check a workspace against its hashes."""
    workspace = Workspace(folder)
    if not workspace.root.is_dir():
        say(f"refused: no workspace at {folder}")
        return REFUSED
    seen, damages = verify_workspace(workspace)
    for damage in damages:
        print(f"damaged  {damage.path}: {damage.problem}")
    print(f"{seen} objects read, {len(damages)} damaged")
    if damages and repair_damage:
        with workspace.hold():
            print(f"{repair(damages)} records or folders withdrawn; run again to make them anew")
    return FAILED if damages else FINISHED


def export_command(folder: Path, layout: str, out: Path, labels: str | None, split: str | None) -> int:
    """Write a label set in a foreign layout."""
    workspace = Workspace(folder)
    try:
        run = workspace.read_run()
        stage = find_labels(workspace, run, labels)
    except (WorkspaceError, KeyError) as error:
        say(f"refused: {error.args[0]}")
        return REFUSED
    index = read_index(index_of(workspace, stage))
    store = LabelStore(stage, index)
    if len(index.classes) > MAX_CLASSES:
        say(
            f"refused: a mask file holds at most {MAX_CLASSES} classes, {stage.name} has {len(index.classes)} and "
            "numbers them in every image anew; read it through storage.labels, or run with fewer dataset.classes"
        )
        return REFUSED
    if split is not None and split not in index.splits:
        say(f"refused: --split: expected one of {', '.join(sorted(set(index.splits)))}, saw {split!r}")
        return REFUSED
    records = (
        Record(index.ids[row], index.paths[row], mask)
        for row, mask in store
        if split is None or index.splits[row] == split
    )
    count = EXPORTERS[layout](records, index.classes, out)
    print(f"{count} masks of {stage.name} written to {out}")
    return FINISHED


def find_labels(workspace: Workspace, run: dict[str, object], labels: str | None) -> StageFolder:
    """The label set a person named: by the proposal's name, by the stage's, or the first.

    Raises
    ------
    KeyError
        There is none of that name.
    """
    methods, names = list(run["methods"]), list(run["labels"])  # type: ignore[call-overload]
    known = dict(zip(methods, names, strict=True))
    if not names:
        raise KeyError(f"{workspace.root}: no masks yet; run `maskmill refine` first")
    name = names[0] if labels is None else known.get(labels, labels)
    folder = StageFolder(workspace.root / "stages" / str(name))
    if not folder.exists:
        raise KeyError(f"--labels: expected one of {', '.join(known)}, or the name of a stage, saw {labels!r}")
    return folder
