"""The end of a run: metric rows, tables and the page, written into the report's folder and committed."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage import keys
from storage.aside import all_aside
from storage.commits import CommitLog
from storage.faults import dying_point
from storage.files import write_bytes_atomic, write_table
from storage.index import QUARANTINED
from storage.metrics import MetricRow, metric_table
from storage.models import describe
from storage.report_page import render_report
from storage.stages import stage_key
from storage.tables import QUARANTINE
from tasks.evaluate import CURVE
from tasks.localization import localization_rows, ranked
from tasks.metrics import classifier_rows, curve_rows, mask_rows
from tasks.page import build_page
from tasks.propose import LOGITS
from tasks.refine import FAILURES, NONFINITE
from tasks.state import State
from tasks.steps import prediction_rows, step_rows, threshold_source
from tasks.sweep import sweep_rows

METRICS_UNIT, PAGE_UNIT = "metrics", "report"
_STEP = {"mask": "refine"}
"""What people call a stage, where its folders have another name."""


def report_folder(state: State) -> Path:
    """Folder of the run's report: its key covers every stage that it shows, and the names that it shows them under."""
    parts: dict[str, Any] = {
        "index": state.index.key,
        "model": state.model.name if state.model else None,
        "transformer": state.transformer.name if state.transformer else None,
        "decoders": {title: folder.name for title, folder in state.decoders.items()},
        "segmenters": {title: folder.name for title, folder in state.segmenters.items()},
        "rounds": {title: folder.name for title, folder in state.round_changes.items()},
        "regions": {title: folder.name for title, folder in state.regions.items()},
        "floors": state.floors.name if state.floors else None,
        "masks": {one.title: folder.name for one, folder in state.masks},
        "counts": [[folder.name for folder in folders] for folders in [*state.counts, state.prediction_counts]],
        "changes": [[folder.name for folder in folders] for folders in state.changes],
        "localized": [folder.name for folder in (state.floor_localized, *state.localized) if folder],
    }
    if sweep := state.run.config.sweep:
        parts["sweep"] = sweep.model_dump(mode="json")
    if recurse := state.run.config.recurse:
        parts["recurse"] = {"rounds": recurse.rounds, "stop": recurse.stop}
    return state.run.workspace.report(stage_key("report", keys.report_basis(state.run.config, parts)))


def metric_rows(state: State) -> list[MetricRow]:
    """Every number of a run: the classifier's, the floors', per proposal the masks' and the threshold curve's, the
    sweep's."""
    rows: list[MetricRow] = []
    if state.model is not None:
        about = describe(state.model)
        logits = state.scored.table(LOGITS)
        rows += classifier_rows(logits, state.index, multi_label=about["multi_label"], method=about["backbone"])
    names = ["background", *state.index.classes]
    if state.floors is not None:
        floors = state.floors.table()
        for method in sorted(set(floors.column("method").to_pylist())):
            part = floors.filter(pc.equal(floors.column("method"), method))
            rows += mask_rows(part, names, stage="mask", method=method, source="fixed")
    rows += step_rows(state) + prediction_rows(state)
    for one, folder in state.refined_counts:
        if state.run.config.evaluate.curve:
            images = folder.table().to_pandas().groupby("split")["row"].nunique().to_dict()
            rows += curve_rows(folder.table(CURVE), names, method=one.title, images=images)
    return rows + _localization(state) + sweep_rows(state)


def _localization(state: State) -> list[MetricRow]:
    rows: list[MetricRow] = []
    if state.floor_localized is not None:
        floors = state.floor_localized.table()
        for method in sorted(set(floors.column("method").to_pylist())):
            part = floors.filter(pc.equal(floors.column("method"), method))
            rows += localization_rows(part, None, method=method, source="fixed")
    ranks = ranked(state.scored.table(LOGITS), state.index.class_ids) if state.localized else None
    for (one, _), folder in zip(state.proposals, state.localized):
        rows += localization_rows(folder.table(), ranks, method=one.title, source=threshold_source(state))
    return rows


def quarantine_table(state: State) -> pa.Table:
    """Images without a mask, and why: refused at staging, with a map that is not finite, or failed in refinement."""
    index = state.index
    rows = [
        {"image_id": index.ids[row], "path": index.paths[row], "stage": "stage", "method": "", "reason": reason}
        for row, (status, reason) in enumerate(
            zip(index.table.column("status").to_pylist(), index.table.column("reason").to_pylist(), strict=True)
        )
        if status == QUARANTINED
    ]
    rows += _left_out(state)
    for one, folder in state.proposals:
        facts, told = folder.table(columns=["row", "image_id", "class", "flag"]), all_aside(folder)
        for fact in facts.filter(pc.equal(facts.column("flag"), NONFINITE)).to_pylist():
            if fact["row"] in told:
                continue
            reason = f"the map of {fact['class']} is not finite"
            where = {"image_id": fact["image_id"], "path": index.paths[fact["row"]]}
            rows.append({**where, "stage": "propose", "method": one.title, "reason": reason})
    stages = ["refine"] * len(state.proposals) + ["predict"] * len(state.predictions)
    for stage, (title, folder) in zip(stages, [(one.title, folder) for one, folder in state.masks]):
        for failure in folder.table(FAILURES).to_pylist():
            where = {"image_id": failure["image_id"], "path": index.paths[failure["row"]]}
            reason = f"{failure['step']}: {failure['reason']}"
            rows.append({**where, "stage": stage, "method": title, "reason": reason})
    return pa.Table.from_pylist(rows, QUARANTINE)


def _left_out(state: State) -> list[dict[str, str]]:
    """Images that a stage after staging had to leave out, with the method that the stage belongs to."""
    named = {folder.name: one.title for one, folder in (*state.proposals, *state.predictions)}
    for (one, _), sets in zip(state.proposals, state.label_sets):
        named |= {each.folder.name: one.title for each in sets}
    found: dict[tuple[str, str, int], str] = {}
    for folder in state.folders:
        stage, method = folder.name.rpartition("-")[0], named.get(folder.name, "")
        # Once for all steps of a refinement.
        found |= {(_STEP.get(stage, stage), method, row): reason for row, reason in all_aside(folder).items()}
    index = state.index
    return [
        {"image_id": index.ids[row], "path": index.paths[row], "stage": stage, "method": method, "reason": reason}
        for (stage, method, row), reason in found.items()
    ]


def write_metrics(state: State, folder: Path) -> int:
    """Write and commit the metric and quarantine tables; returns 1 if there was something to do."""
    log = CommitLog(folder)
    if log.path(METRICS_UNIT).exists():
        return 0
    began = time.monotonic()
    paths = [folder / "metrics.parquet", folder / "quarantine.parquet"]
    write_table(paths[0], metric_table(metric_rows(state), folder.name))
    write_table(paths[1], quarantine_table(state))
    dying_point("metrics")
    log.commit(METRICS_UNIT, paths, facts={}, began=began)
    return 1


def write_page(state: State, folder: Path) -> int:
    """Write and commit the page; returns 1 if there was something to do."""
    log = CommitLog(folder)
    if log.path(PAGE_UNIT).exists():
        return 0
    began = time.monotonic()
    path = folder / "report.html"
    write_bytes_atomic(path, render_report(build_page(state, folder)).encode())
    dying_point("report")
    log.commit(PAGE_UNIT, [path], facts={}, began=began)
    return 1
