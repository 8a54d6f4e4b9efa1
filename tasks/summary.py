"""The few numbers that a person wants first, as text."""

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


def markdown_summary(metrics: pa.Table) -> str:
    """The headline table as Markdown."""
    rows = [{**row, "method": str(row["method"]).replace("|", "\\|")} for row in summary_rows(metrics)]
    return "\n".join(_table(rows, "| {} |", " | ", rule=True))


def text_summary(metrics: pa.Table) -> str:
    """The headline table for a terminal."""
    return "\n".join(_table(summary_rows(metrics), "{}", "  ", rule=False))


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
