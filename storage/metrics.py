"""Metric rows: one number each, with all that says which number it is."""

import math
from dataclasses import dataclass
from typing import Literal

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
ThresholdSource = Literal["fixed", "otsu", "oracle"]


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One number: a fraction 0..1, with its counts where it is a ratio of counts. ``name`` is the class, "" for all."""

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
