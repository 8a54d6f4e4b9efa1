import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from configs import ConfigError, RunConfig
from storage.index import ImageIndex
from storage.metrics import MetricRow
from tasks.sweep import Choice, best, check_sweep, curve_rows, gold_choice, rule_choice, sweep_rows, swept, swept_only

SPLITS = ["train"] * 4 + ["val"] * 2


@dataclass
class Folder:
    """A stage's folder as far as the sweep reads it."""

    rows: Any

    def table(self, columns: list[str] | None = None) -> Any:
        return self.rows.select(columns) if columns else self.rows


def counts(hits: Mapping[int, int], splits: Sequence[str] = SPLITS) -> pa.Table:
    """Ten true pixels of class 1 in every image, some of them found, and ten of background."""
    rows = [
        {"row": row, "split": splits[row], "method": "", "truth": truth, "predicted": predicted, "count": count}
        for row, found in hits.items()
        for truth, predicted, count in ((0, 0, 10), (1, 1, found), (1, 0, 10 - found))
        if count
    ]
    return pa.Table.from_pylist(rows)


def facts(shares: Sequence[float], flags: Sequence[str] | None = None) -> pa.Table:
    rows = range(len(shares))
    return pa.table(
        {"row": rows, "class_id": [1] * len(shares), "share": shares, "flag": flags or ["ok"] * len(shares)}
    )


@pytest.fixture
def state_of(index_of_labels: Callable[..., ImageIndex]) -> Callable[..., Any]:
    """What the steps before found: per δ the counts and the mask facts, and per row the truth."""

    def make(
        tables: Mapping[int, pa.Table],
        masks: Mapping[int, pa.Table] | None = None,
        truth: Sequence[int] | None = None,
        listed: Sequence[dict[str, Any]] = ({"method": "cam"},),
        **sweep: Any,
    ) -> Any:
        deltas = sorted({*tables, *(masks or {})}) or [0, 20]
        config = RunConfig.model_validate(
            {
                "dataset": {"format": "voc", "root": "."},
                "proposals": list(listed),
                "sweep": {"truncations": deltas, **sweep},
            }
        )
        index = index_of_labels([["cat"]] * len(SPLITS), ("cat",), splits=SPLITS)
        assert config.sweep is not None

        def folders(found: Mapping[int, pa.Table]) -> list[Any]:
            return [(one, Folder(found.get(one.settings.get("truncation", -1)))) for one in config.all_proposals]

        held = None
        if truth is not None:
            held = Folder(pa.table({"row": range(len(truth)), "class_id": truth}))
        counts = folders(tables) if tables else []
        return SimpleNamespace(
            run=SimpleNamespace(config=config),
            index=index,
            truth=held,
            refined_counts=counts,
            refined=folders(masks or {}),
        )

    return make


def look(rows: Sequence[MetricRow], source: str, metric: str = "miou", split: str = "train") -> list[MetricRow]:
    return [row for row in rows if (row.threshold_source, row.metric, row.split) == (source, metric, split)]


class TestBest:
    @pytest.mark.parametrize(
        ("scores", "chosen"),
        [({0: 0.1, 20: 0.3, 10: 0.2}, 20), ({20: 0.3, 10: 0.3}, 10), ({0: math.nan, 10: 0.1}, 10), ({}, None)],
    )
    def test_golden(self, scores: dict[int, float], chosen: int | None) -> None:
        assert best(scores) == chosen

    def test_nothing_defined(self) -> None:
        assert best({0: math.nan}) is None


class TestCurveRows:
    TABLES = {  # noqa: RUF012
        0: counts({0: 10, 1: 2, 4: 5}).to_pandas(),
        20: counts({0: 0, 1: 10, 4: 6}).to_pandas(),
    }

    def rows(self, choice: Choice) -> list[MetricRow]:
        return curve_rows(self.TABLES, 2, "lt", choice)

    def test_golden(self) -> None:
        rows = self.rows(Choice(20, "gold-1", (0,)))
        assert {(row.stage, row.method, row.metric) for row in rows} == {
            ("sweep", "lt", "miou"),
            ("sweep", "lt", "fg_iou_pooled"),
        }
        first, second = look(rows, "fixed", "fg_iou_pooled")
        assert [(row.threshold, row.numerator, row.denominator, row.images) for row in (first, second)] == [
            (0.0, 12, 20, 2),
            (0.2, 10, 20, 2),
        ]
        assert look(rows, "fixed")[0].value == pytest.approx((20 / 28 + 12 / 20) / 2)

    def test_chosen_leaves_the_gold_images_out(self) -> None:
        rows = self.rows(Choice(20, "gold-1", (0,)))
        (train,), (val,) = (look(rows, "gold-1", "fg_iou_pooled", split) for split in ("train", "val"))
        assert (train.threshold, train.numerator, train.denominator, train.images) == (0.2, 10, 10, 1)
        assert (val.threshold, val.numerator, val.denominator, val.images) == (0.2, 6, 10, 1)

    def test_no_image_beside_the_gold_ones(self) -> None:
        rows = self.rows(Choice(20, "gold-2", (0, 1)))
        for metric in ("miou", "fg_iou_pooled"):
            (row,) = look(rows, "gold-2", metric)
            assert math.isnan(row.value)
            assert row.images == 0

    def test_oracle_is_the_best_of_its_split(self) -> None:
        rows = self.rows(Choice(None))
        assert [look(rows, "oracle", split=split)[0].threshold for split in ("train", "val")] == [0.0, 0.2]
        assert {row.threshold_source for row in rows} == {"fixed", "oracle"}

    def test_val_first(self) -> None:
        assert [row.split for row in self.rows(Choice(None))][:: len(self.rows(Choice(None))) - 1] == ["val", "train"]

    def test_no_truth(self) -> None:
        assert curve_rows({}, 2, "lt", Choice(0)) == []


class TestGoldChoice:
    def test_all_images_where_there_are_fewer(self, state_of: Callable[..., Any]) -> None:
        state = state_of({0: counts({0: 1, 1: 1, 4: 9}), 20: counts({0: 5, 1: 5, 4: 0})})
        choice = gold_choice(state, state.run.config.sweep)
        assert (choice.percentile, choice.source, choice.gold) == (20, "gold-2", (0, 1))
        assert choice.why == "20 wished, train has no more"

    def test_only_gold_images_decide(self, state_of: Callable[..., Any]) -> None:
        # δ = 20 is better on every image but one; drawn alone, that one decides.
        tables = {0: counts(dict.fromkeys(range(6), 4)), 20: counts(dict.fromkeys(range(6), 6))}
        drawn = gold_choice(state_of(tables, gold_images=1), state_of(tables, gold_images=1).run.config.sweep)
        assert (drawn.percentile, drawn.source, len(drawn.gold)) == (20, "gold-1", 1)
        tables[20] = counts({row: 3 if row == drawn.gold[0] else 6 for row in range(6)})
        state = state_of(tables, gold_images=1)
        assert gold_choice(state, state.run.config.sweep).percentile == 0

    def test_equal_scores_take_the_smaller(self, state_of: Callable[..., Any]) -> None:
        tables = {δ: counts(dict.fromkeys(range(6), 4)) for δ in (30, 10, 20)}
        state = state_of(tables)
        assert gold_choice(state, state.run.config.sweep).percentile == 10

    def test_other_split(self, state_of: Callable[..., Any]) -> None:
        state = state_of({0: counts({0: 9, 4: 1}), 20: counts({0: 0, 4: 2})}, gold_split="val")
        choice = gold_choice(state, state.run.config.sweep)
        assert (choice.percentile, choice.gold) == (20, (4,))

    @pytest.mark.parametrize(
        ("rows", "sweep", "why"),
        [
            ([], {}, "there is none in the whole data set; choose: rule needs none"),
            ([4], {}, "expected images with ground truth in split train, only val has any"),
            (
                [0],
                {"gold_split": "gold"},
                "sweep.gold_split: expected a split with images, one of train, val, saw 'gold'",
            ),
        ],
    )
    def test_no_choice_says_why(
        self, state_of: Callable[..., Any], rows: list[int], sweep: dict[str, Any], why: str
    ) -> None:
        tables = {δ: counts(dict.fromkeys(rows, 5)) for δ in (0, 20)} if rows else {}
        state = state_of(tables, **sweep)
        choice = gold_choice(state, state.run.config.sweep)
        assert choice.percentile is None
        assert why in choice.why


class TestCheckSweep:
    @pytest.mark.parametrize(
        ("truth", "sweep", "why"),
        [
            (None, {}, "there is none in the whole data set"),
            ([255] * 6, {}, "there is none in the whole data set"),
            ([255] * 4 + [0, 1], {}, "only val has any"),
            ([1] * 6, {"gold_split": "test"}, "sweep.gold_split: expected a split with images, one of train, val"),
        ],
    )
    def test_refuses(
        self, state_of: Callable[..., Any], truth: list[int] | None, sweep: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(ConfigError, match=why):
            check_sweep(state_of({}, truth=truth, **sweep))

    def test_accepts(self, state_of: Callable[..., Any]) -> None:
        check_sweep(state_of({}, truth=[1, 255, 255, 255, 255, 255]))
        check_sweep(state_of({}, truth=[255] * 4 + [0, 1], gold_split="val"))

    def test_a_rule_needs_nothing(self, state_of: Callable[..., Any]) -> None:
        check_sweep(state_of({}, choose="rule", gold_split="none"))

    def test_no_sweep(self) -> None:
        config = RunConfig.model_validate({"dataset": {"format": "voc", "root": "."}})
        check_sweep(SimpleNamespace(run=SimpleNamespace(config=config)))  # type: ignore[arg-type]


class TestRule:
    def test_tightest(self) -> None:
        assert rule_choice({0: 0.3, 10: 0.2, 20: 0.2}).percentile == 10
        assert "no image has a label" in rule_choice({0: math.nan, 10: math.nan}).why

    def test_rows_without_truth(self, state_of: Callable[..., Any]) -> None:
        rows = sweep_rows(
            state_of({}, {0: facts([0.5, 0.3]), 20: facts([0.2, 0.4]), 90: facts([0.1, 0.0])}, choose="rule")
        )
        shares = [(row.threshold, row.value) for row in look(rows, "fixed", "label_share", "")]
        # At 90 the second label is lost, which counts as the whole image.
        assert shares == [(0.0, pytest.approx(0.4)), (0.2, pytest.approx(0.3)), (0.9, pytest.approx(0.55))]
        (chosen,) = look(rows, "rule", "label_share", "")
        assert (chosen.threshold, chosen.value, chosen.images) == (0.2, pytest.approx(0.3), 2)
        assert len(rows) == 4

    def test_rows_with_truth_count_every_image(self, state_of: Callable[..., Any]) -> None:
        tables = {0: counts(dict.fromkeys(range(6), 9)), 20: counts(dict.fromkeys(range(6), 1))}
        rows = sweep_rows(state_of(tables, {0: facts([0.5]), 20: facts([0.4])}, choose="rule"))
        assert [(row.threshold, row.images) for row in look(rows, "rule")] == [(0.2, 4)]
        assert [row.threshold for row in look(rows, "oracle")] == [0.0]

    def test_maps_that_are_unusable_anywhere_count_nowhere(self, state_of: Callable[..., Any]) -> None:
        masks = {0: facts([0.5, 0.9]), 20: facts([0.4, 0.0], ["ok", "nonfinite"])}
        rows = sweep_rows(state_of({}, masks, choose="rule"))
        assert [row.value for row in look(rows, "fixed", "label_share", "")] == [0.5, 0.4]


class TestSweepRows:
    def test_no_sweep(self) -> None:
        config = RunConfig.model_validate({"dataset": {"format": "voc", "root": "."}})
        assert sweep_rows(SimpleNamespace(run=SimpleNamespace(config=config))) == []  # type: ignore[arg-type]

    def test_gold(self, state_of: Callable[..., Any]) -> None:
        state = state_of({0: counts(dict.fromkeys(range(6), 2)), 20: counts(dict.fromkeys(range(6), 8))}, gold_images=1)
        rows = sweep_rows(state)
        assert {row.method for row in rows} == {"lt_grad_cam-S3+S4+S5"}
        assert [(row.threshold, row.images) for row in look(rows, "gold-1")] == [(0.2, 3)]
        assert [(row.threshold, row.images) for row in look(rows, "gold-1", split="val")] == [(0.2, 2)]
        assert [row.images for row in look(rows, "fixed")] == [4, 4]

    def test_gold_without_truth_gives_no_row(self, state_of: Callable[..., Any]) -> None:
        assert sweep_rows(state_of({}, {0: facts([0.5]), 20: facts([0.4])})) == []

    def test_a_listed_proposal_serves_the_sweep(self, state_of: Callable[..., Any]) -> None:
        listed = {"method": "grad_cam", "layers": ["S3", "S4", "S5"], "truncation": 20, "name": "mine"}
        state = state_of({0: counts({0: 2}), 20: counts({0: 8})}, listed=[listed])
        assert list(swept(state.run.config.sweep, state.refined_counts)) == [0, 20]
        assert [row.threshold for row in look(sweep_rows(state), "fixed")] == [0.0, 0.2]
        assert swept_only(state) == {"lt_grad_cam-S3+S4+S5-d0"}
