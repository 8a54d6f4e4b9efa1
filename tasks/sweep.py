"""The sweep of the truncation percentile δ: how good the masks are at every δ, and which δ to take.

Its metric rows have the stage ``sweep``, the sweep's name as method and δ / 100 as threshold. They come in kinds that
must not be compared, told apart by ``threshold_source``:

* ``fixed``: the curve, one row per split and δ over all images of the split with a ground truth;
* ``gold-k``: the δ with the best mean IoU on k gold images. In the gold split the gold images are left out of this row,
  so its ``images`` is smaller than the curve's and its value is another one than the curve's at the same δ; where no
  other image remains the value is null;
* ``rule``: the δ of the smallest label share (see :func:`methods.metrics.label_share`), found without ground truth; the
  label shares are rows of all splits together (split ``""``), of metric ``label_share``;
* ``oracle``: the best δ of the split's own curve. It looks at what it is measured on and bounds what choosing can give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from configs import ConfigError
from configs.proposals import Sweep
from methods.metrics import label_share, segmentation_metrics
from storage.index import IGNORE
from storage.metrics import MetricRow
from storage.stages import StageFolder
from tasks.gold import gold_rows
from tasks.metrics import Counts, pooled
from tasks.refine import NONFINITE
from tasks.state import Labelled, State

STAGE, SHARE = "sweep", "label_share"
METRICS = ("miou", "fg_iou_pooled")


@dataclass(frozen=True)
class Choice:
    """The δ that was chosen, None with a reason in ``why``; ``source`` as in a metric row, ``gold`` as index rows."""

    percentile: int | None
    source: str = "rule"
    gold: tuple[int, ...] = ()
    why: str = ""


def check_sweep(state: State) -> None:
    """Refuse a choice that cannot be made, as soon as the images and the ground truth are known.

    Raises
    ------
    ConfigError
        Gold images from a split that has none.
    """
    sweep = state.run.config.sweep
    if sweep is None or sweep.choose == "rule":
        return
    truth = [] if state.truth is None else state.truth.table().to_pylist()
    if why := _no_gold(state, sweep, {fact["row"] for fact in truth if fact["class_id"] != IGNORE}):
        raise ConfigError(why)


def sweep_rows(state: State) -> list[MetricRow]:
    """Rows of the sweep's curve, of the chosen δ and of the best; none without a sweep."""
    sweep = state.run.config.sweep
    if sweep is None:
        return []
    rows: list[MetricRow] = []
    if sweep.choose == "rule":
        shares, images = label_shares(state, sweep)
        choice = rule_choice(shares)
        rows = share_rows(shares, images, sweep.title, choice)
    else:
        choice = gold_choice(state, sweep)
    tables = count_tables(state, sweep)
    return rows + curve_rows(tables, len(state.index.classes) + 1, sweep.title, choice)


def gold_choice(state: State, sweep: Sweep) -> Choice:
    """The δ with the best mean IoU on the gold images, all their pixels pooled; of equal ones the smallest."""
    tables = count_tables(state, sweep)
    judged = set(next(iter(tables.values()))["row"]) if tables else set()
    if why := _no_gold(state, sweep, judged):
        return Choice(None, why=why)
    index = state.index
    candidates = [row for row in sorted(judged) if index.splits[row] == sweep.gold_split]
    gold = gold_rows(index, candidates, sweep.gold_images)
    classes = len(index.classes) + 1
    scores = {δ: _scores(pooled(part[part["row"].isin(gold)], classes))["miou"] for δ, part in tables.items()}
    fewer = f"{sweep.gold_images} wished, {sweep.gold_split} has no more" if len(gold) < sweep.gold_images else ""
    return Choice(best(scores), f"gold-{len(gold)}", tuple(gold), fewer)


def rule_choice(shares: Mapping[int, float]) -> Choice:
    """The δ of the tightest masks, by their label shares; of equal ones the smallest."""
    chosen = best({δ: -share for δ, share in shares.items()})
    return Choice(
        chosen, why="" if chosen is not None else "sweep: no image has a label: there is nothing to choose by"
    )


def best(scores: Mapping[int, float]) -> int | None:
    """The δ of the highest score, of equal ones the smallest; None where no score is defined.

    Examples
    --------
    >>> best({20: 0.5, 10: 0.5, 0: 0.4, 30: float("nan")})
    10
    """
    defined = [δ for δ, score in scores.items() if score == score]
    return min(defined, key=lambda δ: (-scores[δ], δ)) if defined else None


def curve_rows(tables: Mapping[int, pd.DataFrame], classes: int, title: str, choice: Choice) -> list[MetricRow]:
    """Per split: the curve, the chosen δ without the gold images, and the best δ.

    Parameters
    ----------
    tables
        Per δ the counts of every image, as the evaluation stores them.
    classes
        Number of classes, background included.
    title
        Name of the sweep.
    choice
        What was chosen.
    """
    rows: list[MetricRow] = []
    found = {str(split) for table in tables.values() for split in table["split"]}
    splits = sorted(found, key=lambda split: (split != "val", split))
    for split in splits:
        parts = {δ: table[table["split"] == split] for δ, table in tables.items()}
        curve = {δ: _scores(pooled(part, classes)) for δ, part in parts.items()}
        for δ, part in parts.items():
            rows += _rows(title, split, δ, "fixed", part, curve[δ])
        if choice.percentile is not None:
            rest = parts[choice.percentile]
            rest = rest[~rest["row"].isin(choice.gold)]
            scores = _scores(pooled(rest, classes))
            rows += _rows(title, split, choice.percentile, choice.source, rest, scores)
        top = best({δ: scores["miou"] for δ, scores in curve.items()})
        if top is not None:
            rows += _rows(title, split, top, "oracle", parts[top], curve[top])
    return rows


def label_shares(state: State, sweep: Sweep) -> tuple[dict[int, float], int]:
    """Label share per δ over the images of all splits, and their number; pairs with an unusable map are left out."""
    columns = ["row", "class_id", "share", "flag"]
    facts = {δ: folder.table(columns=columns).to_pandas() for δ, folder in swept(sweep, state.refined).items()}
    whole = pd.concat(facts.values(), ignore_index=True)
    unusable = set(whole.loc[whole["flag"] == NONFINITE, ["row", "class_id"]].itertuples(index=False, name=None))
    shares: dict[int, float] = {}
    images: set[int] = set()
    for δ, table in facts.items():
        usable = np.array([pair not in unusable for pair in zip(table["row"], table["class_id"])], dtype=bool)
        shares[δ] = label_share(table.loc[usable, "share"].to_numpy(np.float64))
        images |= set(table.loc[usable, "row"])
    return shares, len(images)


def share_rows(shares: Mapping[int, float], images: int, title: str, choice: Choice) -> list[MetricRow]:
    """Rows of the label share per δ, and of the δ chosen by it."""
    where: dict[str, Any] = {"stage": STAGE, "method": title, "split": "", "metric": SHARE, "images": images}
    rows = [MetricRow(value=share, threshold=δ / 100, **where) for δ, share in shares.items()]
    if choice.percentile is None:
        return rows
    decided: dict[str, Any] = {"threshold": choice.percentile / 100, "threshold_source": choice.source}
    return [*rows, MetricRow(value=shares[choice.percentile], **decided, **where)]


def swept(sweep: Sweep, found: Sequence[Labelled]) -> dict[int, StageFolder]:
    """Folder per δ, ascending, among those of all proposals; a δ that is listed too may have its own name there."""
    wanted = {one.truncation: one.settings for one in sweep.proposals() if one.truncation is not None}
    return {δ: next(folder for one, folder in found if one.settings == wanted[δ]) for δ in sorted(wanted)}


def count_tables(state: State, sweep: Sweep) -> dict[int, pd.DataFrame]:
    """Counts of every image per δ; none without ground truth."""
    if not state.refined_counts:
        return {}
    return {δ: folder.table().to_pandas() for δ, folder in swept(sweep, state.refined_counts).items()}


def swept_only(state: State) -> frozenset[str]:
    """Names of the proposals that only the sweep asks for: the best of them is an oracle over δ."""
    config = state.run.config
    return frozenset(one.title for one in config.all_proposals[len(config.proposals) :])


def _no_gold(state: State, sweep: Sweep, judged: set[int]) -> str:
    splits = state.index.splits
    names = ", ".join(sorted(set(splits)))
    if sweep.gold_split not in splits:
        return f"sweep.gold_split: expected a split with images, one of {names}, saw {sweep.gold_split!r}"
    having = sorted({splits[row] for row in judged})
    if sweep.gold_split in having:
        return ""
    seen = f"only {', '.join(having)} has any" if having else "there is none in the whole data set"
    return (
        f"sweep.choose: gold: expected images with ground truth in split {sweep.gold_split}, {seen}; "
        f"choose: rule needs none"
    )


def _scores(counts: Counts) -> dict[str, float]:
    ratios = segmentation_metrics(counts)
    tp, fp, fn, _ = ratios["fg_counts"]
    return {**{name: float(ratios[name]) for name in METRICS}, "hits": int(tp), "either": int(tp + fp + fn)}


def _rows(
    title: str, split: str, percentile: int, source: str, part: pd.DataFrame, scores: Mapping[str, float]
) -> list[MetricRow]:
    where: dict[str, Any] = {"stage": STAGE, "method": title, "split": split, "threshold": percentile / 100}
    where |= {"threshold_source": source, "images": int(part["row"].nunique())}
    over, under = int(scores["hits"]), int(scores["either"])
    return [
        MetricRow(metric="miou", value=scores["miou"], **where),
        MetricRow(metric="fg_iou_pooled", value=scores["fg_iou_pooled"], numerator=over, denominator=under, **where),
    ]
