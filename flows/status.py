"""What a workspace says about itself; nothing but its files is asked, and nothing is written."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from storage.aside import all_aside
from storage.commits import CommitLog
from storage.files import read_table
from storage.history import past_runs
from storage.index import QUARANTINED, read_index
from storage.stages import StageFolder
from storage.workspace import Workspace, WorkspaceError

SHOWN = 10


def status_lines(workspace: Workspace) -> list[str]:
    """Lines for a person: who works, what failed, shards done and to do by stage, models, images, quarantine, reports.

    Parameters
    ----------
    workspace
        One that may be in use: every file in it is whole or absent.
    """
    owner = workspace.owner()
    lines = [f"workspace  {workspace.root}", f"held by    {owner or 'nobody'}"]
    if failure := workspace.read_failure():
        where = f"{failure['unit']}: " if failure["unit"] else ""
        lines.append(f"failed     {failure['time']}: {where}{failure['error']}: {failure['message']}")
    lines += _last_line(workspace)
    todo = "running" if owner else "unfinished"
    lines += [_stage_line(stage, todo) for stage in workspace.stages()]
    for model in sorted((workspace.root / "models").glob("*-*")):
        lines.append(f"{model.name:<24} {_model_state(model, running=owner is not None)}")
    if workspace.index_path.exists():
        lines += _image_lines(workspace)
    lines += _quarantine_lines(workspace)
    lines += [f"report     {page}" for page in sorted((workspace.root / "reports").glob("*/report.html"))]
    return lines


def _last_line(workspace: Workspace) -> list[str]:
    """The last run that ended well, and what it found to be new."""
    try:
        runs = past_runs(workspace)
    except WorkspaceError as error:
        return [f"last run   {error}"]
    if not runs:
        return []
    news = runs[0].facts.get("news") or {}
    told = "".join(f", {count} {what}" for what, count in news.items() if count)
    return [f"last run   {runs[0].time}, up to {runs[0].last}{told}"]


def _stage_line(stage: StageFolder, todo: str) -> str:
    missing, aside = len(stage.missing()), len(all_aside(stage))
    line = f"{stage.name:<24} {stage.shards - missing}/{stage.shards} shards"
    line += f"  {todo}, {missing} to do" if missing else ""
    return line + (f"  {aside} images left out, they kill the process" if aside else "")


def _model_state(folder: Path, *, running: bool) -> str:
    if CommitLog(folder).units():
        return "done"
    if (folder / "checkpoint.pt").exists():
        return "in training" if running else "in training, stopped"
    return "begun"


def _image_lines(workspace: Workspace) -> Iterator[str]:
    table = read_index(workspace.index_path).table
    refused = table.filter([status == QUARANTINED for status in table.column("status").to_pylist()])
    yield f"images     {table.num_rows}, {refused.num_rows} quarantined"
    paths, reasons = refused.column("path").to_pylist(), refused.column("reason").to_pylist()
    yield from _first([f"           {path}: {reason}" for path, reason in zip(paths, reasons, strict=True)])


def _quarantine_lines(workspace: Workspace) -> Iterator[str]:
    """What the last report says about images that later steps set aside."""
    try:
        report = workspace.read_run().get("report")
    except WorkspaceError:
        return
    path = workspace.report(str(report)) / "quarantine.parquet"
    if not path.exists():
        return
    table = read_table(path)
    later = [row for row in table.to_pylist() if row["stage"] != "stage"]
    if later:
        counts = ", ".join(
            f"{count} in {stage}" for stage, count in sorted(Counter(row["stage"] for row in later).items())
        )
        yield f"set aside  {counts}"
        yield from _first([f"           {row['path']}, {row['method']}: {row['reason']}" for row in later])


def _first(lines: list[str]) -> list[str]:
    more = [f"           and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return lines[:SHOWN] + more
