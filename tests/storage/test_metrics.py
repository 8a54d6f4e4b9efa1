import math

import pytest

from storage.files import table_bytes
from storage.metrics import SCHEMA, MetricRow, metric_table

ROW = MetricRow(stage="mask", method="m", split="val", metric="miou", value=0.25, images=3)


class TestMetricTable:
    def test_smoke(self) -> None:
        rows = [
            ROW,
            MetricRow("cam", "m", "val", "iou", 0.5, 3, "cat", 0.2, "oracle", numerator=1, denominator=2),
        ]
        table = metric_table(rows, "abc")
        assert table.schema.equals(SCHEMA)
        assert table.column("metric").to_pylist() == ["miou", "iou"]
        assert table.slice(1).to_pylist() == [
            {
                "stage": "cam",
                "method": "m",
                "split": "val",
                "metric": "iou",
                "class": "cat",
                "threshold": 0.2,
                "threshold_source": "oracle",
                "value": 0.5,
                "numerator": 1,
                "denominator": 2,
                "images": 3,
                "run_key": "abc",
            }
        ]

    def test_undefined_is_null_and_zero_is_zero(self) -> None:
        values = [math.nan, 0.0, 1.0]
        table = metric_table([MetricRow("mask", "m", "val", "iou", value, 1) for value in values], "abc")
        assert table.column("value").to_pylist() == [None, 0.0, 1.0]

    def test_none(self) -> None:
        assert metric_table([], "abc").schema.equals(SCHEMA)
        assert metric_table([], "abc").num_rows == 0

    def test_same_rows_same_bytes(self) -> None:
        assert table_bytes(metric_table([ROW], "abc")) == table_bytes(metric_table([ROW], "abc"))

    def test_rows_do_not_change(self) -> None:
        with pytest.raises(AttributeError):
            ROW.value = 1.0


class TestMetricRow:
    @pytest.mark.parametrize("source", ["fixed", "otsu", "oracle", "rule", "gold-1", "gold-20"])
    def test_threshold_sources(self, source: str) -> None:
        assert MetricRow("sweep", "m", "val", "miou", 0.5, 1, threshold_source=source).threshold_source == source

    @pytest.mark.parametrize("source", ["", "gold", "gold-", "gold-0", "gold-020", "gold-k", "Otsu", "rule ", "best"])
    def test_refuses_other_sources(self, source: str) -> None:
        with pytest.raises(ValueError, match=f"expected a threshold source .* gold-k, got '{source}'"):
            MetricRow("sweep", "m", "val", "miou", 0.5, 1, threshold_source=source)
