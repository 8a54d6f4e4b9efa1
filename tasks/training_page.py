"""What the report shows of trainings: their curves, and the boxes that decoders learned from."""

from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from storage.files import read_table
from storage.models import HISTORY
from storage.report_figures import curve_figure
from storage.report_page import Figure, Table, Value
from storage.stages import FACTS
from tasks.attend import MEAN
from tasks.state import State

SHOWN = 50
"""Rows of a table of boxes, those that the classifier likes best."""
COLOURS = ((224, 122, 31), (91, 127, 224), (201, 72, 123), (122, 154, 29))
Pixels = np.ndarray[Any, Any]


def training_figures(state: State) -> list[Figure]:
    """One figure per model that was trained here: terms of the loss, and what chose the epoch."""
    models = {"classifier": state.model, "transformer": state.transformer, **state.decoders, **state.segmenters}
    figures = []
    for name, folder in models.items():
        if folder is None or not (folder / HISTORY).exists():
            continue
        frame = read_table(folder / HISTORY).to_pandas()
        if len(frame) < 2:
            continue
        terms = {column: frame[["epoch", column]].dropna() for column in frame if column != "epoch"}
        lines = {column: (part["epoch"].tolist(), part[column].tolist()) for column, part in terms.items()}
        best = [column for column in ("px_ap", "fg_iou_pooled", "max_box_acc") if column in frame]
        data = curve_figure(lines, f"Training: {name}", "epoch", f"loss, {best[0]}" if best else "loss", whole=True)
        note = f"The epoch with the largest {best[0]} on the validation split was kept." if best else ""
        figures.append(Figure(f"Training of {name}", data, note or "The last epoch was kept."))
    return figures


def box_tables(state: State) -> list[Table]:
    """Boxes around attention that decoders learned from, best first."""
    tables = []
    for title, folder in state.regions.items():
        frame = folder.table(FACTS).to_pandas()
        best = frame.sort_values(["rank", "score", "row"], ascending=[True, False, True]).head(SHOWN)
        rows: list[list[Value]] = []
        for one in best.to_dict("records"):
            box = f"{one['x0']}, {one['y0']}, {one['x1']}, {one['y1']} of {one['side']}"
            head = "mean" if one["head"] == MEAN else str(one["head"])
            label, large = state.index.classes[one["class_id"] - 1], "no" if one["fallback"] else "yes"
            rows.append([one["image_id"], label, head, box, large, float(one["area"]), float(one["score"])])
        note = (
            f"{len(frame)} boxes on {frame['row'].nunique()} images, the first {len(rows)} of the best ranked. score: "
            "probability of the label for the image blurred outside of the box."
        )
        columns = ["image", "label", "head", "box", "large enough", "area", "score"]
        tables.append(Table(f"Boxes of {title}", columns, rows, note))
    return tables


def boxes_by_row(state: State) -> dict[int, pd.DataFrame]:
    """Best boxes of every image, from the first decoder that has some."""
    for folder in state.regions.values():
        frame = folder.table(FACTS).to_pandas()
        return {int(row): part.sort_values("rank").head(len(COLOURS)) for row, part in frame.groupby("row")}
    return {}


def with_boxes(pixels: Pixels, boxes: pd.DataFrame) -> Pixels:
    """An image with boxes drawn on it, the best in the first colour and on top."""
    image = Image.fromarray(pixels)
    draw, width = ImageDraw.Draw(image), max(1, round(min(image.size) / 100))
    for colour, one in reversed(list(zip(COLOURS, boxes.to_dict("records")))):
        x, y = image.width / one["side"], image.height / one["side"]
        corners = [one["x0"] * x, one["y0"] * y, max(one["x1"] * x - 1, 0), max(one["y1"] * y - 1, 0)]
        draw.rectangle(corners, outline=colour, width=width)
    return np.asarray(image)
