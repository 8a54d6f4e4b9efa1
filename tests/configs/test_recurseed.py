"""RecurSeed in the configuration: the published defaults, names, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import ConfigError, RunConfig, load_config
from configs.recurseed import Mix, RecurSeed, Spread
from configs.segmentation import Inference


def run(*train: dict[str, Any], **sections: Any) -> RunConfig:
    dataset = {"format": "voc", "root": "."}
    trained = [{"model": "recurseed", **one} for one in train]
    return RunConfig.model_validate({"dataset": dataset, "train": trained, **sections})


def only(**settings: Any) -> RecurSeed:
    (made,) = run(settings).train
    assert isinstance(made, RecurSeed)
    return made


def refused(tmp_path: Path, **settings: Any) -> str:
    path = tmp_path / "run.yaml"
    train = [{"model": "recurseed", **settings}]
    path.write_text(yaml.safe_dump({"dataset": {"format": "voc", "root": "."}, "train": train}), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    return str(error.value)


class TestRecurSeed:
    def test_defaults_are_the_published_ones(self) -> None:
        made = only()
        assert (made.start, made.scg, made.pamr, made.foreground, made.background) == (5, Spread(), True, 0.55, 0.10)
        assert (made.classes, made.reconstruction, made.segmentation) == (1.0, 1.0, 1.0)
        assert made.mix == Mix(start=15, edges="mask")
        assert made.groups
        fit = made.optimise
        assert (fit.epochs, fit.batch_size, fit.optimiser, fit.learning_rate) == (30, 32, "sgd", 0.1)
        assert (fit.schedule, fit.power, fit.weight_decay) == ("poly", 0.9, 1e-4)

    def test_predicts_pseudo_masks_by_default(self) -> None:
        assert only().inference == Inference(gate="labels", stretch=True)
        assert only(inference={"gate": "scores"}).inference == Inference(gate="scores")

    @pytest.mark.parametrize(
        ("settings", "title"),
        [
            ({}, "recurseed-epm"),
            ({"mix": None}, "recurseed"),
            ({"scg": False}, "recurseed-no_scg-epm"),
            ({"pamr": False, "mix": None}, "recurseed-no_pamr"),
            ({"scg": False, "pamr": False}, "recurseed-no_scg-no_pamr-epm"),
            ({"name": "mine"}, "mine"),
        ],
    )
    def test_titles_tell_what_is_left_out(self, settings: dict[str, Any], title: str) -> None:
        assert only(**settings).title == title

    def test_variants_stand_side_by_side(self) -> None:
        made = run({}, {"mix": None}, {"scg": False}, {"pamr": False})
        assert len({one.title for one in made.segmenters}) == 4
        with pytest.raises(ValueError, match="seen twice: recurseed-epm"):
            run({}, {"start": 3})

    def test_settings_hold_what_decides_the_weights(self) -> None:
        plain = only().settings
        assert only(name="mine", inference={"gate": "none"}).settings == plain
        assert not {"name", "inference"} & set(plain)
        for change in (
            {"start": 4},
            {"scg": False},
            {"foreground": 0.6},
            {"mix": {"edges": "image"}},
            {"mix": None},
            {"classes": 2.0},
            {"groups": False},
        ):
            assert only(**change).settings != plain, change

    def test_switches_and_constants_of_self_correlation(self) -> None:
        assert only(scg=True) == only()
        assert only(scg=False).scg is None
        made = only(scg={"variant": "spa_cub", "foreground": 0.8, "layers": ["S3", "S4"]})
        assert made.scg == Spread(variant="spa_cub", foreground=0.8, layers=["S3", "S4"])
        assert made.settings != only().settings
        assert made.title == "recurseed-epm"

    @pytest.mark.parametrize(
        ("scg", "message"),
        [({"layers": ["S9"]}, "S9"), ({"layers": []}, "at least 1"), ({"foreground": 2}, "2"), ("yes", "yes")],
    )
    def test_refuses_other_self_correlations(self, tmp_path: Path, scg: Any, message: str) -> None:
        found = refused(tmp_path, scg=scg)
        assert "scg" in found
        assert message in found

    def test_learns_from_no_masks(self) -> None:
        with pytest.raises(ValueError, match="labels"):
            run({"labels": "grad_cam-S5"})


class TestRefusals:
    @pytest.mark.parametrize("background", [0.55, 0.6])
    def test_background_below_foreground(self, tmp_path: Path, background: float) -> None:
        found = refused(tmp_path, background=background)
        assert f"background: expected less than foreground 0.55, saw {background:g}" in found
        assert only(background=0.54).background == 0.54

    def test_mixing_before_the_maps_teach(self, tmp_path: Path) -> None:
        found = refused(tmp_path, mix={"start": 4})
        assert "mix.start: expected 5 or later, where the maps begin to teach, saw 4" in found
        assert only(mix={"start": 5}).mix == Mix(start=5)
        assert only(mix=None, start=20).start == 20

    def test_a_late_start_wants_a_later_mix(self, tmp_path: Path) -> None:
        assert "mix.start: expected 20 or later" in refused(tmp_path, start=20)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"optimise": {"epochs": 5}}, "start: expected an epoch before optimise.epochs 5, saw 5"),
            ({"optimise": {"epochs": 15}}, "mix.start: expected an epoch before optimise.epochs 15, saw 15"),
        ],
    )
    def test_what_would_never_begin(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        assert message in refused(tmp_path, **change)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"start": -1}, "start: expected greater than or equal to 0, saw -1"),
            ({"foreground": 1.5}, "foreground: expected less than or equal to 1, saw 1.5"),
            ({"background": -0.1}, "background: expected greater than or equal to 0, saw -0.1"),
            ({"segmentation": -1}, "segmentation: expected greater than or equal to 0, saw -1"),
            ({"mix": {"edges": "both"}}, "mix.edges: expected 'mask' or 'image', saw 'both'"),
            ({"optimise": {"batch_size": 1}}, "optimise.batch_size: expected greater than or equal to 2, saw 1"),
            ({"weight": 1}, "weight: expected no such key, saw 1"),
        ],
    )
    def test_names_file_and_key(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        found = refused(tmp_path, **change)
        assert "run.yaml: train.0" in found
        assert message in found

    def test_images_smaller_than_the_crop(self) -> None:
        with pytest.raises(ValueError, match=r"train: recurseed-epm: resize: expected at least .*224, saw 64"):
            run({"resize": 64})
