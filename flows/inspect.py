"""Commands that only read a workspace: status, verify, export."""

from pathlib import Path

from configs.dataset import MAX_CLASSES
from flows.cli import FAILED, FINISHED, REFUSED
from flows.commands import say
from storage.commits import CommitLog
from storage.exporters import EXPORTERS, Record
from storage.index import read_index
from storage.labels import LabelStore, index_of
from storage.stages import StageFolder
from storage.verify import repair, verify_workspace
from storage.workspace import Workspace, WorkspaceError


def status_command(folder: Path) -> int:
    """Print the stages of a workspace, its quarantine, its owner and its last report."""
    workspace = Workspace(folder)
    if not workspace.root.is_dir():
        say(f"refused: no workspace at {folder}")
        return REFUSED
    print(f"workspace  {workspace.root}")
    print(f"held by    {workspace.owner() or 'nobody'}")
    for stage in workspace.stages():
        missing = len(stage.missing())
        print(
            f"{stage.name:<24} {stage.shards - missing}/{stage.shards} shards" + ("" if not missing else "  unfinished")
        )
    for model in sorted((workspace.root / "models").glob("*-*")):
        state = "done" if CommitLog(model).units() else "in training" if (model / "checkpoint.pt").exists() else "begun"
        print(f"{model.name:<24} {state}")
    if workspace.index_path.exists():
        index = read_index(workspace.index_path)
        print(f"images     {len(index)}, {int((~index.ok).sum())} quarantined")
    for page in sorted((workspace.root / "reports").glob("*/report.html")):
        print(f"report     {page}")
    return FINISHED


def verify_command(folder: Path, *, repair_damage: bool) -> int:
    """Check a workspace against its hashes."""
    if not folder.is_dir():
        say(f"refused: no workspace at {folder}")
        return REFUSED
    workspace = Workspace(folder)
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
