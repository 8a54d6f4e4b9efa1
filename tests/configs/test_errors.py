import pytest
from pydantic import ValidationError

from configs.errors import explain
from configs.schema import RunConfig


def said(data: object) -> str:
    with pytest.raises(ValidationError) as refused:
        RunConfig.model_validate(data)
    return explain("run.yaml", refused.value, data)


class TestExplain:
    def test_union_tag_is_not_part_of_the_key(self) -> None:
        data = {"dataset": {"format": "voc", "root": ".", "split": 3}, "refine": [{"step": "threshold", "value": 2.0}]}
        assert [line.split(": ")[1] for line in said(data).splitlines()] == ["dataset.split", "refine.0.value"]

    def test_key_that_is_called_like_the_tag(self) -> None:
        text = said({"dataset": {"format": "voc", "root": ".", "voc": 1}})
        assert text == "run.yaml: dataset.voc: expected no such key, saw 1"

    def test_missing(self) -> None:
        assert said({}) == "run.yaml: dataset: expected a value, saw none"
        assert said({"dataset": {"format": "table", "root": "."}}).endswith("dataset.table: expected a value, saw none")

    def test_union_without_tag(self) -> None:
        assert said({"dataset": {"root": "."}}) == "run.yaml: dataset.format: expected a value, saw none"

    def test_union_with_unknown_tag(self) -> None:
        text = said({"dataset": {"format": "vok", "root": "."}})
        assert text.startswith("run.yaml: dataset.format: expected one of 'voc', ")
        assert text.endswith("saw 'vok'")

    def test_own_validator_speaks_for_itself(self) -> None:
        data = {"dataset": {"format": "ksdd2", "root": "."}, "proposals": [{"method": "grad_cam"}] * 2}
        assert said(data) == "run.yaml: proposals: expected different names, seen twice: grad_cam-S5"

    def test_text_that_yaml_reads_otherwise(self) -> None:
        text = said({"dataset": {"format": "voc", "root": ".", "classes": ["yes", True]}})
        assert text == "run.yaml: dataset.classes.1: expected text, saw True; quote it to make it text"

    def test_every_wrong_key_has_its_line(self) -> None:
        data = {"dataset": {"format": "voc", "root": "."}, "runtime": {"workers": -1, "shard_images": 0, "gpu": 1}}
        assert said(data).count("\n") == 2

    def test_what_is_seen_stays_short(self) -> None:
        bomb: list[object] = ["lol"]
        for _ in range(60):
            bomb = [bomb] * 9
        assert len(said({"dataset": {"format": "voc", "root": "."}, "more": bomb})) < 1000
        assert len(said({"dataset": {"format": "voc", "root": "."}, "more": "x" * 10_000})) < 300
