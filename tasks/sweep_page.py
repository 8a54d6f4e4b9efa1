"""The sweep on the report's page: the curve as a figure and a table, the chosen δ, and why there is none."""

import pandas as pd

from configs.proposals import Sweep
from storage.report_figures import Points, curve_figure
from storage.report_page import Figure, Table, Tile, Value
from tasks.state import State
from tasks.summary import chosen_percentile, chosen_rows
from tasks.sweep import SHARE, STAGE, gold_choice

MAX_NAMES = 100
_HEADINGS = {"miou": "mIoU", "fg_iou_pooled": "fg IoU", SHARE: "label share"}


def sweep_figures(frame: pd.DataFrame) -> list[Figure]:
    """Mean IoU against δ, a line per split, with the chosen δ and each split's best marked; none without truth."""
    part = frame[(frame["stage"] == STAGE) & (frame["metric"] == "miou")]
    if part.empty:
        return []
    fixed, oracle = (part[part["threshold_source"] == source] for source in ("fixed", "oracle"))
    curves = {str(split): _points(one) for split, one in fixed.groupby("split", sort=False)}
    marks = {"oracle: best of each split": _points(oracle)}
    chosen = chosen_percentile(frame)
    if chosen is not None:
        percentile, source = chosen
        # On the curve, which counts the gold images too: the chosen row's own value would lie beside it.
        marks = {f"chosen: δ = {percentile} ({source})": _points(fixed[_percent(fixed) == percentile])} | marks
    title = str(part["method"].iloc[0])
    data = curve_figure(curves, f"mIoU against δ ({title})", "truncation percentile δ", "mIoU", dots=True, marks=marks)
    note = "All images with ground truth count, gold images too. The best δ of a split is read off its ground truth."
    return [Figure(f"Sweep of δ, {title}", data, note)]


def sweep_tables(frame: pd.DataFrame) -> list[Table]:
    """One row per δ, and one of the chosen δ without the gold images."""
    part = frame[frame["stage"] == STAGE]
    if part.empty:
        return []
    fixed = part[part["threshold_source"] == "fixed"]
    columns = list(dict.fromkeys(zip(fixed["split"], fixed["metric"], strict=True)))
    rows: list[list[Value]] = []
    for percentile, one in fixed.groupby(_percent(fixed), sort=True):
        rows.append([str(percentile), *_cells(one, columns)])
    chosen = chosen_percentile(frame)
    reference: frozenset[int] = frozenset()
    if chosen is not None:
        reference = frozenset([len(rows)])
        rows.append([f"chosen: {chosen[0]} ({chosen[1]})", *_cells(chosen_rows(frame), columns)])
    note = (
        "Bold: the best δ of a column, an oracle: it is read off the images it is measured on. "
        "The chosen δ's row leaves the gold images out, so it is not the curve's."
        if chosen is not None and chosen[1] != "rule"
        else "Bold: the best δ of a column, an oracle where it is an IoU. Of the label share the smallest is chosen."
    )
    headings = ["δ", *[f"{_HEADINGS[metric]} {split}".strip() for split, metric in columns]]
    best = frozenset(place for place, (_, metric) in enumerate(columns, start=1) if metric != SHARE)
    lowest = frozenset(range(1, len(headings))) - best
    return [Table(f"Sweep of δ, {part['method'].iloc[0]}", headings, rows, note, best, lowest, reference)]


def sweep_tiles(frame: pd.DataFrame) -> list[Tile]:
    """The chosen δ."""
    chosen = chosen_percentile(frame)
    if chosen is None:
        return []
    title = str(frame.loc[frame["stage"] == STAGE, "method"].iloc[0])
    return [Tile("Chosen δ", str(chosen[0]), f"by {chosen[1]}, {title}")]


def sweep_warnings(state: State, frame: pd.DataFrame) -> list[str]:
    """Which δ was chosen and by what, or why none was."""
    sweep = state.run.config.sweep
    if sweep is None:
        return []
    chosen = chosen_percentile(frame)
    if sweep.choose == "rule":
        if chosen is None:
            return [f"{sweep.title}: no δ was chosen: no image has a label, there is nothing to choose by."]
        return [
            f"{sweep.title}: δ = {chosen[0]} has the tightest masks that keep every label; no ground truth was used, "
            "and where masks are too small already the tightest are not the best."
        ]
    choice = gold_choice(state, sweep)
    if chosen is None:
        return [f"{sweep.title}: no δ was chosen: {choice.why or 'no score is defined'}."]
    text = f"{sweep.title}: δ = {chosen[0]} was chosen on {len(choice.gold)} images of {sweep.gold_split}"
    fewer = f" ({choice.why})" if choice.why else ""
    return [f"{text}{fewer}; where the chosen δ is reported they are left out, in the curve they are not."]


def sweep_provenance(state: State, sweep: Sweep | None) -> dict[str, str]:
    """The names of the gold images."""
    if sweep is None or sweep.choose == "rule":
        return {}
    gold = [state.index.ids[row] for row in gold_choice(state, sweep).gold]
    more = f" and {len(gold) - MAX_NAMES} more" if len(gold) > MAX_NAMES else ""
    return {"gold images": ", ".join(gold[:MAX_NAMES]) + more} if gold else {}


def _percent(frame: pd.DataFrame) -> "pd.Series[int]":
    return (100 * frame["threshold"]).round().astype(int)


def _points(frame: pd.DataFrame) -> Points:
    ordered = frame.assign(percent=_percent(frame)).sort_values("percent")
    return ordered["percent"].tolist(), ordered["value"].astype(float).tolist()


def _cells(frame: pd.DataFrame, columns: list[tuple[str, str]]) -> list[Value]:
    values = dict(zip(zip(frame["split"], frame["metric"], strict=True), frame["value"], strict=True))
    found = [values.get(column) for column in columns]
    return [None if value is None or value != value else float(value) for value in found]
