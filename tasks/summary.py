"""The few numbers that a person wants first, as text."""

import pandas as pd
import pyarrow as pa

HEADLINES = ("miou", "miou_foreground", "fg_iou_pooled", "precision", "recall", "f1_macro")


def summary_rows(metrics: pa.Table) -> list[dict[str, object]]:
    """One row per label set and split with its headline numbers, floors last; none without ground truth."""
    frame = metrics.to_pandas()
    masks = frame[(frame["stage"] == "mask") & (frame["class"] == "") & frame["metric"].isin(HEADLINES)]
    rows: list[dict[str, object]] = []
    for (method, split), part in masks.groupby(["method", "split"], sort=False):
        values = dict(zip(part["metric"], part["value"], strict=True))
        rows.append({"method": method, "split": split, "images": int(part["images"].iloc[0]), **values})
    floors = {"whole_image", "centred_box"}
    return sorted(rows, key=lambda row: (row["split"] != "val", str(row["split"]), row["method"] in floors))


def chosen_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the δ that a sweep chose; none where it chose none."""
    source = frame["threshold_source"]
    chosen: pd.DataFrame = frame[(frame["stage"] == "sweep") & ((source == "rule") | source.str.startswith("gold-"))]
    return chosen


def chosen_percentile(frame: pd.DataFrame) -> tuple[int, str] | None:
    """The δ that a sweep chose and by what (``gold-k`` or ``rule``)."""
    rows = chosen_rows(frame)
    return None if rows.empty else (round(100 * rows["threshold"].iloc[0]), str(rows["threshold_source"].iloc[0]))


def sweep_lines(metrics: pa.Table) -> list[str]:
    """What a sweep came to: the chosen δ, and the best of each split, which only the ground truth tells."""
    frame = metrics.to_pandas()
    sweep = frame[frame["stage"] == "sweep"]
    if sweep.empty:
        return []
    chosen, title = chosen_percentile(frame), sweep["method"].iloc[0]
    if chosen is None:
        return [f"sweep {title}: no δ was chosen, the report says why"]
    lines = [f"sweep {title}: δ = {chosen[0]}, by {chosen[1]}{_by_split(chosen_rows(frame), with_percentile=False)}"]
    oracle = sweep[sweep["threshold_source"] == "oracle"]
    return [*lines, f"best of each split{_by_split(oracle, with_percentile=True)} (oracle)"] if len(oracle) else lines


def markdown_summary(metrics: pa.Table) -> str:
    """The headline table as Markdown, and what a sweep came to."""
    rows = [{**row, "method": str(row["method"]).replace("|", "\\|")} for row in summary_rows(metrics)]
    return "\n".join([*_table(rows, "| {} |", " | ", rule=True), *[f"\n{line}" for line in sweep_lines(metrics)]])


def text_summary(metrics: pa.Table) -> str:
    """The headline table for a terminal, and what a sweep came to."""
    lines = sweep_lines(metrics)
    return "\n".join([*_table(summary_rows(metrics), "{}", "  ", rule=False), *([""] if lines else []), *lines])


def _by_split(rows: pd.DataFrame, *, with_percentile: bool) -> str:
    rows = rows[rows["metric"] == "miou"]
    parts = []
    for split, value, images, threshold in zip(
        rows["split"], rows["value"], rows["images"], rows["threshold"], strict=True
    ):
        where = f"δ = {round(100 * threshold)}" if with_percentile else f"{images} images"
        parts.append(f"{split} {_cell(float(value))} ({where})")
    return f": mIoU {', '.join(parts)}" if parts else ""


def _table(rows: list[dict[str, object]], frame: str, gap: str, *, rule: bool) -> list[str]:
    if not rows:
        return ["No ground truth: no mask was scored."]
    columns = ["method", "split", "images", *HEADLINES]
    cells = [columns, *[[_cell(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [
        frame.format(
            gap.join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        ).rstrip()
        for line in cells
    ]
    if rule:
        lines.insert(1, frame.format(gap.join("-" * width for width in widths)))
    return lines


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3f}"
    return "–" if value is None else str(value)
