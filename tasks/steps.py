"""What every step of refinement does to the labels: rows against the ground truth and against the step before."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from configs.refine import KINDS
from storage.metrics import MetricRow, ThresholdSource
from storage.report_page import Table, Value
from tasks.metrics import count_rows, mask_rows, pooled
from tasks.state import State

CHANGE = {"miou": "miou_to_previous", "fg_iou_pooled": "fg_iou_to_previous"}
ENDS = ("miou_low", "miou_high")
SHOWN = ("miou", "miou_foreground", "fg_iou_pooled")


def threshold_source(state: State) -> ThresholdSource:
    """Who decided the threshold of the run's masks."""
    return "otsu" if any(one.step == "otsu" for one in state.run.config.refine) else "fixed"


def step_rows(state: State) -> list[MetricRow]:
    """Rows of every label set of every proposal: scores where there is ground truth, and agreement with the set before.

    Agreement takes the step before as truth: 1 where a step changes nothing. It needs no ground truth.
    """
    rows: list[MetricRow] = []
    names, source = ["background", *state.index.classes], threshold_source(state)
    for place, (one, _) in enumerate(state.proposals):
        sets = state.label_sets[place]
        for part, counts in zip(sets, state.counts[place] if state.counts else []):
            rows += mask_rows(counts.table(), names, stage=part.stage, method=one.title, source=source)
        for (_, after), changes in zip(pairwise(sets), state.changes[place], strict=True):
            rows += _change_rows(changes.table().to_pandas(), names, after.stage, one.title, source)
    return rows


def prediction_rows(state: State) -> list[MetricRow]:
    """Rows of every predicted label set, and how far each round of a recursion moved."""
    names = ["background", *state.index.classes]
    rows: list[MetricRow] = []
    for (one, _), counts in zip(state.predictions, state.prediction_counts):
        rows += mask_rows(counts.table(), names, stage="mask", method=one.title, source="fixed")
    for title, changes in state.round_changes.items():
        rows += _change_rows(changes.table().to_pandas(), names, "mask", title, "fixed")
    return rows


def _change_rows(
    frame: pd.DataFrame, names: list[str], stage: str, method: str, source: ThresholdSource
) -> list[MetricRow]:
    rows: list[MetricRow] = []
    for split, part in frame.groupby("split", sort=True):
        where: dict[str, Any] = {
            "stage": stage,
            "method": method,
            "split": str(split),
            "images": int(part["row"].nunique()),
            "threshold_source": source,
        }
        for row in count_rows(pooled(part, len(names)), names, where):
            if row.metric in CHANGE and not row.name:
                rows.append(
                    MetricRow(
                        metric=CHANGE[row.metric],
                        value=row.value,
                        numerator=row.numerator,
                        denominator=row.denominator,
                        **where,
                    )
                )
    return rows


def step_table(state: State, frame: pd.DataFrame) -> Table:
    """A row per method, split and step; empty where there is one step only."""
    order = [one.stage for one in state.label_sets[0]] if state.label_sets else []
    columns = ["method", "split", "labels after", *SHOWN, "95 %", "miou_to_previous"]
    rows: list[list[Value]] = []
    if len(order) > 1:
        methods = {one.title for one, _ in state.proposals}
        wanted = frame[frame["stage"].isin(order) & frame["method"].isin(methods) & (frame["class"] == "")]
        wanted = wanted[wanted["metric"].isin([*SHOWN, *CHANGE.values(), *ENDS]) & wanted["threshold"].isna()]
        for (method, split), part in wanted.groupby(["method", "split"], sort=False):
            for stage in order:
                values = part[part["stage"] == stage].set_index("metric")["value"].to_dict()
                scores, moved = ([_number(values.get(one)) for one in some] for some in (SHOWN, ["miou_to_previous"]))
                rows.append([str(method), str(split), _named(state, stage), *scores, _interval(values), *moved])
    note = (
        "Labels decided after each step. To the step before: agreement that takes it as truth, 1 where nothing "
        "changed; it says how much a step moves, not whether that is good. 95 %: of mIoU, bootstrap over images."
    )
    return Table("What each step of refinement does", columns, rows, note, frozenset({3, 4, 5}), group=1)


def _named(state: State, stage: str) -> str:
    """The last label set under the name of its last step."""
    if stage != "mask":
        return stage
    steps = state.run.config.refine
    labels = [one.step for one in steps if KINDS[one.step] == "label"]
    soft = [one.step for one in steps if KINDS[one.step] == "map"]
    return f"{(labels or soft)[-1]}, mask"


def _interval(values: Mapping[Any, Any]) -> str | None:
    return f"{values[ENDS[0]]:.3f}–{values[ENDS[1]]:.3f}" if all(end in values for end in ENDS) else None


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
