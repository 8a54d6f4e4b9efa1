"""Metric rows: one number each, with all that says which number it is."""

import math
import re
from dataclasses import dataclass

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("method", pa.string()),
        ("split", pa.string()),
        ("metric", pa.string()),
        ("class", pa.string()),
        ("threshold", pa.float64()),
        ("threshold_source", pa.string()),
        ("value", pa.float64()),
        ("numerator", pa.int64()),
        ("denominator", pa.int64()),
        ("images", pa.int64()),
        ("run_key", pa.string()),
    ]
)
ThresholdSource = str
"""Who decided the threshold: ``fixed`` (the configuration), ``otsu`` (each map), ``gold-k`` (k images with ground
truth), ``rule`` (a rule that sees no ground truth), ``oracle`` (the ground truth of the images that are reported on).
"""
_SOURCE = re.compile(r"fixed|otsu|oracle|rule|gold-[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One number: a fraction 0..1, with its counts where it is a ratio of counts. ``name`` is the class, "" for all.

    Raises
    ------
    ValueError
        A threshold source that is none of :data:`ThresholdSource`: rows are told apart by it.
    """

    stage: str
    method: str
    split: str
    metric: str
    value: float
    images: int
    name: str = ""
    threshold: float | None = None
    threshold_source: ThresholdSource = "fixed"
    numerator: int | None = None
    denominator: int | None = None

    def __post_init__(self) -> None:
        if not _SOURCE.fullmatch(self.threshold_source):
            raise ValueError(
                f"expected a threshold source fixed, otsu, oracle, rule or gold-k, got {self.threshold_source!r}"
            )


def metric_table(rows: list[MetricRow], run_key: str) -> pa.Table:
    """The rows as a table in the order given; a value that is not defined is null, never 0."""
    records = [
        {
            "stage": row.stage,
            "method": row.method,
            "split": row.split,
            "metric": row.metric,
            "class": row.name,
            "threshold": row.threshold,
            "threshold_source": row.threshold_source,
            "value": None if math.isnan(row.value) else float(row.value),
            "numerator": row.numerator,
            "denominator": row.denominator,
            "images": row.images,
            "run_key": run_key,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(records, SCHEMA)
