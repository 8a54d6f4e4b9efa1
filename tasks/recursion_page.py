"""What the report shows of a recursion: how much every round changed, and what it gained."""

from typing import Any

import pandas as pd

from storage.report_page import Table, Value
from tasks.recursion import changed_share
from tasks.state import State


def round_table(state: State, frame: pd.DataFrame) -> Table:
    """A row per round and split; empty for a run without recursion."""
    recurse = state.run.config.recurse
    if recurse is None:
        return Table("Rounds of recursion", [], [], "")
    done = len(state.round_changes)
    rows: list[list[Value]] = []
    for training in map(recurse.round, range(1, done + 1)):
        before = training.labels or state.proposals[0][0].title
        changed = changed_share(state, training)
        for split in sorted(set(state.index.splits)):
            old, new = (_score(frame, title, split) for title in (before, training.title))
            gained = None if old is None or new is None else new - old
            agrees = _score(frame, training.title, split, "miou_to_previous")
            rows.append([training.title, split, changed, agrees, old, new, gained])
    note = (
        "changed: share of the training images' pixels whose label the round changed; it decides the end, at "
        f"{recurse.stop:g} or less. To the round before: mIoU that takes its masks as truth. gained: mIoU against the "
        f"ground truth.{' No further round was needed.' if done < recurse.rounds else ''}"
    )
    columns = ["round", "split", "changed", "miou_to_previous", "miou before", "miou", "gained"]
    return Table("Rounds of recursion", columns, rows, note)


def _score(frame: pd.DataFrame, method: str, split: str, metric: str = "miou") -> float | None:
    wanted = (frame["stage"] == "mask") & (frame["method"] == method) & (frame["split"] == split)
    part: Any = frame[wanted & (frame["metric"] == metric) & (frame["class"] == "") & frame["threshold"].isna()]
    return None if part.empty else float(part["value"].iloc[0])
