from pathlib import Path
from typing import Any

import pytest

from configs import ConfigError, RunConfig, dump_config, load_config
from configs.training import Puzzle, Training

RUN = """
dataset: {format: voc, root: .}
classifier: {train: {puzzle: {}}}
"""


def run(**classifier: Any) -> RunConfig:
    return RunConfig.model_validate({"dataset": {"format": "voc", "root": "."}, "classifier": classifier})


def written(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    return path


def refused(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path), overrides)
    return str(error.value)


class TestPuzzle:
    def test_off_by_default(self) -> None:
        settings = Training()
        assert (settings.puzzle, settings.groups, settings.compat) == (None, False, False)
        assert run().classifier.loss == "auto"

    def test_defaults_are_those_of_the_published_networks(self) -> None:
        puzzle = Puzzle()
        assert (puzzle.pieces, puzzle.alpha, puzzle.rise, puzzle.entropy) == (2, 4.0, 0.5, 0.0)
        assert (puzzle.level, puzzle.distance, puzzle.region) == ("feature", "l1", "masking")

    @pytest.mark.parametrize("loss", ["auto", "soft_margin"])
    def test_means_soft_margin(self, loss: str) -> None:
        assert run(loss=loss, train={"puzzle": {}}).classifier.loss == "soft_margin"

    def test_round_trips(self, tmp_path: Path) -> None:
        config = load_config(written(tmp_path), ["classifier.train.puzzle.region=none"])
        path = tmp_path / "dumped.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        assert load_config(path) == config

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("frozen=true", "train.puzzle: expected frozen: false, since it trains the backbone, saw frozen: true"),
            ("head=native", "train.puzzle: expected head: gap, whose logits are means of maps, saw head: native"),
            ("loss=cross_entropy", "train.puzzle: expected loss auto or soft_margin, its own, saw cross_entropy"),
            ("train.puzzle.pieces=3", "train.puzzle.pieces: expected a divisor of input_size 224, saw 3"),
            ("input_size=225", "train.puzzle.pieces: expected a divisor of input_size 225, saw 2"),
        ],
    )
    def test_refuses_what_it_cannot_train(self, tmp_path: Path, override: str, message: str) -> None:
        assert f"run.yaml: classifier: {message}" in refused(tmp_path, f"classifier.{override}")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("pieces=1", "pieces: expected greater than or equal to 2, saw 1"),
            ("alpha=-1", "alpha: expected greater than or equal to 0, saw -1"),
            ("rise=1.5", "rise: expected less than or equal to 1, saw 1.5"),
            ("level=map", "level: expected 'feature' or 'cam', saw 'map'"),
            ("distance=l3", "distance: expected 'l1' or 'l2', saw 'l3'"),
            ("region=all", "region: expected 'masking', 'selection' or 'none', saw 'all'"),
            ("entropy=-1", "entropy: expected greater than or equal to 0, saw -1"),
            ("weight=1", "weight: expected no such key, saw 1"),
        ],
    )
    def test_refused_keys_name_file_and_key(self, tmp_path: Path, override: str, message: str) -> None:
        found = refused(tmp_path, f"classifier.train.puzzle.{override}")
        assert f"run.yaml: classifier.train.puzzle.{message}" in found


class TestCompat:
    def test_wants_sgd(self, tmp_path: Path) -> None:
        found = refused(tmp_path, "classifier.train.compat=true")
        assert "classifier.train: compat: expected optimiser sgd and a weight_decay below 1" in found
        assert "saw adamw and 0.0001" in found
        assert run(train={"compat": True, "optimiser": "sgd"}).classifier.train.compat

    def test_decay_becomes_a_momentum(self) -> None:
        with pytest.raises(ValueError, match="saw sgd and 1"):
            Training(compat=True, optimiser="sgd", weight_decay=1.0)
