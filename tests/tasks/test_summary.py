import math

import pyarrow as pa
import pytest

from storage.metrics import MetricRow, metric_table
from tasks.summary import markdown_summary, summary_rows, text_summary


def row(method: str, metric: str, value: float, split: str = "val", name: str = "", stage: str = "mask") -> MetricRow:
    return MetricRow(stage, method, split, metric, value, 8, name)


@pytest.fixture
def metrics() -> pa.Table:
    rows = [
        row("whole_image", "miou", 0.1),
        row("ours", "miou", 0.5, split="train"),
        row("ours", "miou", 0.41234),
        row("ours", "f1_macro", math.nan),
        row("ours", "iou", 0.9, name="cat"),
        row("ours", "precision", 0.25),
        row("ours", "precision", 0.75, name="cat"),
        row("ours", "accuracy", 0.99),
        row("ours", "miou_best", 0.6, stage="cam"),
        row("classifier", "precision", 1.0, stage="classifier"),
    ]
    return metric_table(rows, "abc")


class TestSummaryRows:
    def test_val_first_and_floors_last(self, metrics: pa.Table) -> None:
        found = [(one["method"], one["split"]) for one in summary_rows(metrics)]
        assert found == [("ours", "val"), ("whole_image", "val"), ("ours", "train")]

    def test_values_are_those_of_all_classes(self, metrics: pa.Table) -> None:
        first = summary_rows(metrics)[0]
        assert first["images"] == 8
        assert (first["miou"], first["precision"]) == (0.41234, 0.25)
        assert "accuracy" not in first
        assert "miou_best" not in first


class TestText:
    def test_golden(self, metrics: pa.Table) -> None:
        assert text_summary(metrics).splitlines() == [
            "method       split  images   miou  miou_foreground  fg_iou_pooled  precision  recall  f1_macro",
            "ours         val         8  0.412                –              –      0.250       –         –",
            "whole_image  val         8  0.100                –              –          –       –         –",
            "ours         train       8  0.500                –              –          –       –         –",
        ]

    def test_markdown(self, metrics: pa.Table) -> None:
        lines = markdown_summary(metrics).splitlines()
        assert len(lines) == 5
        assert lines[0].startswith("| method      | split | images |")
        assert set(lines[1]) == {"|", "-", " "}
        assert {line.count("|") for line in lines} == {10}
        assert len({len(line) for line in lines}) == 1

    @pytest.mark.parametrize("make", [text_summary, markdown_summary])
    def test_without_ground_truth(self, make) -> None:
        assert make(metric_table([], "abc")) == "No ground truth: no mask was scored."
        only = metric_table([row("classifier", "precision", 1.0, stage="classifier")], "abc")
        assert make(only) == "No ground truth: no mask was scored."


class TestSweep:
    def table(self, *sources: tuple[str, str, float, float, int]) -> pa.Table:
        rows = [
            MetricRow("sweep", "lt", split, metric, value, images, threshold=δ, threshold_source=source)
            for source, split, value, δ, images in sources
            for metric in ("miou", "fg_iou_pooled")
        ]
        return metric_table([row("ours", "miou", 0.5), *rows], "abc")

    def test_chosen_and_best(self) -> None:
        metrics = self.table(
            ("fixed", "val", 0.4, 0.0, 8),
            ("fixed", "val", 0.5, 0.29, 8),
            ("gold-20", "val", 0.4, 0.0, 8),
            ("gold-20", "train", math.nan, 0.0, 0),
            ("oracle", "val", 0.5, 0.29, 8),
        )
        lines = text_summary(metrics).splitlines()
        assert lines[2:] == [
            "",
            "sweep lt: δ = 0, by gold-20: mIoU val 0.400 (8 images), train – (0 images)",
            "best of each split: mIoU val 0.500 (δ = 29) (oracle)",
        ]
        assert markdown_summary(metrics).endswith("\n\n" + lines[-2] + "\n\n" + lines[-1])

    def test_rule_without_truth(self) -> None:
        share = MetricRow("sweep", "lt", "", "label_share", 0.2, 8, threshold=0.1, threshold_source="rule")
        assert text_summary(metric_table([share], "abc")).splitlines() == [
            "No ground truth: no mask was scored.",
            "",
            "sweep lt: δ = 10, by rule",
        ]

    def test_none_chosen(self) -> None:
        metrics = self.table(("fixed", "val", 0.4, 0.0, 8), ("oracle", "val", 0.4, 0.0, 8))
        assert text_summary(metrics).splitlines()[-1] == "sweep lt: no δ was chosen, the report says why"

    def test_sweep_rows_are_no_masks(self) -> None:
        metrics = self.table(("fixed", "val", 0.9, 0.0, 8))
        assert [one["method"] for one in summary_rows(metrics)] == ["ours"]
