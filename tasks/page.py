"""What the report's page shows, gathered from the tables and label sets of a run."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from configs import dump_config
from configs.refine import KINDS
from methods.visuals import heat, outline, overlay, voc_palette
from storage.aside import all_aside
from storage.files import read_table
from storage.report_figures import curve_figure
from storage.report_page import Figure, OverlayCard, Quarantined, ReportPage, Swatch, Table, Tile, Value
from storage.stages import FACTS
from tasks.chain import StepError
from tasks.images import ImageSource
from tasks.localization import localization_table
from tasks.metrics import image_scores
from tasks.recursion_page import round_table
from tasks.refine import ChainReader
from tasks.state import State
from tasks.steps import step_table
from tasks.summary import HEADLINES, summary_rows
from tasks.sweep import swept_only
from tasks.sweep_page import sweep_figures, sweep_provenance, sweep_tables, sweep_tiles, sweep_warnings
from tasks.training_page import box_tables, boxes_by_row, training_figures, with_boxes

FLOORS = {
    "whole_image": "floor: whole image",
    "centred_box": "floor: centred box",
    "centred_gaussian": "floor: centred Gaussian",
}
MAX_ROWS = 200
MAX_LEAKS = 50
MAX_LEGEND = 24
MAX_OTHERS = 3
"""Masks that a card shows beside the first, those of the last methods: decoders and networks are the last ones."""
CARD_SIDE = 320
PALETTE = voc_palette()
Pixels = np.ndarray[Any, Any]


def build_page(state: State, folder: Path) -> ReportPage:
    """Gather the page of a run whose metric and quarantine tables are written."""
    metrics = read_table(folder / "metrics.parquet")
    quarantine = read_table(folder / "quarantine.parquet")
    frame = metrics.to_pandas()
    leaks = leak_table(state)
    only = swept_only(state)
    tables = [method_table(metrics, only), *sweep_tables(frame), class_table(state, frame[~frame["method"].isin(only)])]
    listed = frame[~frame["method"].isin(only)]
    tables += [step_table(state, listed), round_table(state, listed), localization_table(listed, FLOORS)]
    tables += [*box_tables(state), classifier_table(frame), *leaks]
    return ReportPage(
        title=state.run.config.report.title,
        subtitle=f"{len(state.index)} images, {len(state.index.classes)} classes, report {folder.name}",
        summary=tiles(state, summary_rows(metrics), quarantine.num_rows, only) + sweep_tiles(frame),
        tables=[table for table in tables if table.rows],
        figures=sweep_figures(frame) + curves(frame[~frame["method"].isin(only)]) + training_figures(state),
        overlays=cards(state),
        legend=legend(state.index.classes),
        quarantine=[
            Quarantined(row["image_id"], row["path"], row["stage"], row["reason"])
            for row in quarantine.slice(0, MAX_ROWS).to_pylist()
        ],
        warnings=warnings(state, leaks, quarantine.num_rows) + sweep_warnings(state, frame),
        provenance=provenance(state),
    )


def tiles(state: State, rows: list[dict[str, Any]], quarantined: int, swept: frozenset[str]) -> list[Tile]:
    """The numbers on top of the page; the best is one of the methods that were listed, never the luckiest swept one."""
    index = state.index
    shown = [Tile("Images", f"{len(index):,}", ", ".join(sorted(set(index.splits))))]
    methods = [row for row in rows if row["method"] not in FLOORS and row["method"] not in swept]
    if methods:
        best = max(methods, key=lambda row: (row["split"] == rows[0]["split"], _number(row["miou"])))
        floors = [row for row in rows if row["method"] in FLOORS and row["split"] == best["split"]]
        floor = max((_number(row["miou"]) for row in floors), default=float("nan"))
        shown.append(Tile("Best mIoU", f"{_number(best['miou']):.3f}", f"{best['method']}, {best['split']}"))
        shown.append(Tile("Best floor mIoU", f"{floor:.3f}", "made without looking at the images"))
        shown.append(Tile("Foreground IoU", f"{_number(best['fg_iou_pooled']):.3f}", "same masks, pixels pooled"))
    else:
        confidences = [
            float(np.mean(confidence_by_image(state, place)["confidence"])) for place in range(len(state.masks))
        ]
        shown.append(
            Tile("Mean confidence", f"{max(confidences, default=0.0):.3f}", "no ground truth to score against")
        )
    shown.append(Tile("Quarantined", str(quarantined), "left out of everything, listed below"))
    return shown


def method_table(metrics: Any, swept: frozenset[str]) -> Table:
    """Headline numbers of every label set and floor, without those made for a sweep only: it has a table of its own."""
    rows: list[list[Value]] = []
    for row in summary_rows(metrics):
        if row["method"] in swept:
            continue
        method = FLOORS.get(str(row["method"]), str(row["method"]))
        values = [_value(row.get(name)) for name in HEADLINES]
        rows.append([method, str(row["split"]), int(_number(row["images"])), *values])
    note = "Fractions, pixels pooled over the split. Floors are masks made without looking at any image."
    floors = frozenset(place for place, row in enumerate(rows) if row[0] in FLOORS.values())
    columns = ["method", "split", "images", *HEADLINES]
    best = frozenset(range(3, 9))
    return Table("Masks against the ground truth", columns, rows, note, best, reference=floors, group=1)


def class_table(state: State, frame: pd.DataFrame) -> Table:
    """IoU of every class, one column per class that is there; in the order of :func:`method_table`."""
    part = frame[(frame["stage"] == "mask") & (frame["metric"] == "iou") & (frame["class"] != "")]
    part = part[part["value"].notna()]
    names = [name for name in ("background", *state.index.classes) if name in set(part["class"])]
    rows: list[list[Value]] = []
    for (method, split), one in part.groupby(["method", "split"], sort=False):
        values = dict(zip(one["class"], one["value"], strict=True))
        rows.append([FLOORS.get(str(method), str(method)), str(split), *[values.get(name) for name in names]])
    rows.sort(key=lambda row: (row[1] != "val", str(row[1]), row[0] in FLOORS.values()))
    note = "IoU per class; a dash stands for a class that is neither in the ground truth nor in any mask."
    floors = frozenset(place for place, row in enumerate(rows) if row[0] in FLOORS.values())
    columns = ["method", "split", *names]
    return Table("IoU by class", columns, rows, note, frozenset(range(2, len(columns))), reference=floors, group=1)


def classifier_table(frame: pd.DataFrame) -> Table:
    """Numbers of the classifier."""
    part = frame[(frame["stage"] == "classifier") & (frame["class"] == "")]
    names = list(dict.fromkeys(part["metric"]))
    rows: list[list[Value]] = []
    for (method, split), one in part.groupby(["method", "split"], sort=False):
        values = dict(zip(one["metric"], one["value"], strict=True))
        rows.append([str(method), str(split), int(one["images"].iloc[0]), *[values.get(name) for name in names]])
    note = "From the logits of the pass that made the maps."
    return Table("Classifier", ["backbone", "split", "images", *names], rows, note)


def leak_table(state: State) -> list[Table]:
    """Pairs of images that show the same thing in different splits, none if there are none."""
    if state.staged is None:
        return []
    leaks = read_table(state.staged.folder / "leaks.parquet")
    if not leaks.num_rows:
        return []
    columns = ["image_id", "split", "other_id", "other_split", "correlation", "exact"]
    rows = [
        [str(row[name]) if name == "exact" else row[name] for name in columns] for row in leaks.slice(0, 50).to_pylist()
    ]
    note = (
        f"{leaks.num_rows} pairs look the same, turned or mirrored, and lie in different splits; the first {len(rows)}."
    )
    return [Table("Leaks between splits", columns, rows, note)]


def curves(frame: pd.DataFrame) -> list[Figure]:
    """Mean IoU against the threshold, per split."""
    part = frame[(frame["stage"] == "cam") & (frame["metric"] == "miou") & (frame["threshold_source"] == "oracle")]
    figures = []
    for split, one in part.groupby("split", sort=True):
        lines = {
            str(method): (rows["threshold"].tolist(), rows["value"].tolist())
            for method, rows in one.groupby("method", sort=False)
        }
        data = curve_figure(lines, f"mIoU against one threshold for all images ({split})", "threshold", "mIoU")
        note = "Oracle: the best threshold is read off the ground truth, so compare shapes, not with the masks above."
        figures.append(Figure(f"Threshold curve, {split}", data, note))
    return figures


def confidence_by_image(state: State, place: int) -> pd.DataFrame:
    """Mean confidence of every image with a mask of one label set."""
    facts = state.masks[place][1].table(FACTS, ["row", "confidence"]).to_pandas()
    first: pd.DataFrame = facts.groupby("row", as_index=False)["confidence"].first()
    return first


def cards(state: State) -> list[OverlayCard]:
    """Pictures of the first label set: worst first where there is a ground truth, else least certain first."""
    wanted = state.run.config.report.overlays
    if not wanted or not state.masks:
        return []
    # Whoever looks at an image that was left out dies.
    deadly = [row for folder in state.folders for row in all_aside(folder)]
    if state.evaluations:
        counts = state.evaluations[0][1].table().to_pandas()
        counts = counts[~counts["row"].isin(deadly)]
        scores = image_scores(counts, len(state.index.classes) + 1).sort_values(["miou", "row"]).head(wanted)
        ranked = [(int(row), f"mIoU {value:.2f}") for row, value in zip(scores["row"], scores["miou"], strict=True)]
    else:
        sure = confidence_by_image(state, 0)
        sure = sure[~sure["row"].isin(deadly)].sort_values(["confidence", "row"]).head(wanted)
        ranked = [(int(row), f"sure {value:.2f}") for row, value in zip(sure["row"], sure["confidence"], strict=True)]
    source, boxes = state.source(), boxes_by_row(state)
    return [card(state, source, row, badge, boxes.get(row)) for row, badge in ranked]


def legend(classes: tuple[str, ...]) -> list[Swatch]:
    """Colours of the classes, where there are few enough to be told apart."""
    if len(classes) > MAX_LEGEND:
        return []
    colours = [tuple(int(part) for part in PALETTE[k]) for k in range(1, len(classes) + 1)]
    return [Swatch(name, (red, green, blue)) for name, (red, green, blue) in zip(classes, colours, strict=True)]


def card(state: State, source: ImageSource, row: int, badge: str, boxes: pd.DataFrame | None = None) -> OverlayCard:
    """Image, soft map, mask and ground truth of one image, and the boxes around its attention."""
    index = state.index
    pixels = source.pixels(row)
    masks = state.masks[0]
    store = state.label_store(masks[1])
    shown = [("image", pixels), *strip(state, source, row, pixels, store.shard_of(row).number)]
    shown.append(("mask", overlay(pixels, store.mask(row), PALETTE)))
    for other, folder in state.masks[1:][-MAX_OTHERS:]:
        shown.append((other.title, overlay(pixels, state.label_store(folder).mask(row), PALETTE)))
    if boxes is not None:
        shown.append(("boxes, best in orange", with_boxes(pixels, boxes)))
    if state.truth is not None:
        truth = state.label_store(state.truth).mask(row)
        shown.append(("ground truth", overlay(outline(pixels, truth, PALETTE), truth, PALETTE, alpha=0.35)))
    labels = ", ".join(index.classes[k - 1] for k in index.class_ids[row]) or "no label"
    caption = f"{labels} · {index.splits[row]} · {masks[0].title}"
    return OverlayCard(index.ids[row], [(name, jpeg(picture)) for name, picture in shown], caption, badge)


def strip(state: State, source: ImageSource, row: int, pixels: Pixels, shard: int) -> list[tuple[str, Pixels]]:
    """The first class's map of an image as the method made it, and after every step on maps."""
    (first, proposal), sets = state.proposals[0], state.label_sets[0]
    reader = ChainReader(state.index, source, proposal, state.correlated.get(first.title), shard)
    chain = reader.chain(row, sets)
    if chain is None or not len(chain.maps):
        return []
    shown = [(f"map: {reader.pairs.by_row[row][0]['class']}", heat(chain.maps[0].numpy(), pixels))]
    soft = [one for one in sets[-1].steps if KINDS[one.step] == "map"]
    for count, one in enumerate(soft, start=1):
        try:
            shown.append((one.step, heat(chain.refined(soft[:count])[0].numpy(), pixels)))
        except StepError:  # the image is in quarantine, with the step's name
            break
    return shown


def jpeg(pixels: np.ndarray[Any, Any]) -> bytes:
    """A small JPEG of a picture."""
    image = Image.fromarray(pixels)
    image.thumbnail((CARD_SIDE, CARD_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def warnings(state: State, leaks: list[Table], quarantined: int) -> list[str]:
    """What a careful person should know before using the masks."""
    found = [table.note for table in leaks]
    if quarantined:
        found.append(f"{quarantined} entries are in quarantine; their masks are 255 (ignore) throughout.")
    for one, folder in state.proposals:
        flags = folder.table(columns=["flag"]).column("flag").to_pylist()
        if constant := flags.count("constant"):
            found.append(f"{one.title}: {constant} of {len(flags)} maps are constant: not located.")
    if state.truth is None:
        known = "There are no ground truth masks" if state.boxes else "There is no ground truth"
        found.append(f"{known}: nothing below says how good the masks are{' as masks' if state.boxes else ''}.")
    return found


def provenance(state: State) -> dict[str, str]:
    """Keys of everything the page was made from, and the configuration."""
    keys = {
        "image index": state.index.key,
        "classifier": state.model.name if state.model else "",
        **({"transformer": state.transformer.name} if state.transformer else {}),
        **{f"{title} (decoder)": folder.name for title, folder in state.decoders.items()},
        "ground truth": state.truth.name if state.truth else "none",
    }
    for (one, proposal), (_, masks) in zip(state.proposals, state.refined, strict=True):
        keys[one.title] = f"{proposal.name}, {masks.name}"
    for network, masks in state.predictions:
        keys[network.title] = f"{state.segmenters[network.title].name}, {masks.name}"
    config = state.run.config
    return {**keys, **sweep_provenance(state, config.sweep), "configuration": dump_config(config)}


def _value(value: object) -> float | None:
    return None if math.isnan(_number(value)) else _number(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
