"""Schemas of the tables that people read beside the metrics."""

import pyarrow as pa

QUARANTINE = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("stage", pa.string()),
        ("method", pa.string()),
        ("reason", pa.string()),
    ]
)
