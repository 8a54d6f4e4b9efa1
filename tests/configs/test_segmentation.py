"""Segmentation networks in the configuration: defaults, names, masks to learn from, rounds, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import ConfigError, RunConfig, dump_config, load_config
from configs.segmentation import GROUND_TRUTH, Inference, Recurse, Segmenter

UNET: dict[str, Any] = {"model": "unet"}
FCAM: dict[str, Any] = {"model": "fcam", "proposal": "grad_cam-S5"}


def run(*train: dict[str, Any], **sections: Any) -> RunConfig:
    dataset = {"format": "voc", "root": "."}
    proposals = [{"method": "grad_cam"}, {"method": "layer_cam"}]
    return RunConfig.model_validate({"dataset": dataset, "proposals": proposals, "train": list(train), **sections})


def only(**settings: Any) -> Segmenter:
    (made,) = run({**UNET, **settings}).train
    assert isinstance(made, Segmenter)
    return made


def refused(tmp_path: Path, **sections: Any) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"dataset": {"format": "voc", "root": "."}, **sections}), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    return str(error.value)


class TestSegmenter:
    def test_defaults(self) -> None:
        made = only()
        assert (made.labels, made.confidence, made.backbone, made.weights) == (None, False, None, None)
        assert (made.keep_stride, made.width, made.resize, made.split) == ([], 256, None, ["train"])
        assert (made.flip, made.vertical_flip) == (True, False)
        fit = made.optimise
        assert (fit.optimiser, fit.learning_rate, fit.weight_decay, fit.schedule) == ("sgd", 0.007, 4e-5, "poly")
        assert (fit.epochs, fit.batch_size, fit.power, fit.momentum) == (30, 16, 0.9, 0.9)

    def test_inference_is_that_of_a_user_by_default(self) -> None:
        wish = only().inference
        assert wish == Inference()
        assert (wish.scales, wish.flip, wish.gate, wish.stretch, wish.pamr) == ([1.0], True, "none", False, False)

    @pytest.mark.parametrize("model", ["deeplabv3plus", "deeplabv3_resnet50", "unet"])
    def test_titles_tell_network_and_masks(self, model: str) -> None:
        (first,), (named,) = (run({"model": model, **more}).train for more in ({}, {"labels": "layer_cam-S5"}))
        assert (first.title, named.title) == (f"{model}-first", f"{model}-layer_cam-S5")

    def test_a_name_is_the_title(self) -> None:
        assert only(name="mine", labels=GROUND_TRUTH).title == "mine"

    def test_settings_hold_what_decides_the_weights(self) -> None:
        plain = only().settings
        other = only(name="mine", labels="layer_cam-S5", inference={"gate": "labels", "scales": [0.5], "pamr": True})
        assert other.settings == plain
        assert not {"name", "inference", "labels"} & set(plain)
        for change in (
            {"confidence": True},
            {"width": 16},
            {"resize": 300},
            {"flip": False},
            {"split": ["val"]},
            {"keep_stride": ["S5"]},
            {"backbone": "resnet18"},
            {"optimise": {"seed": 1}},
        ):
            assert only(**change).settings != plain, change

    def test_is_told_apart_from_decoders(self) -> None:
        config = run(FCAM, UNET, {"model": "recurseed"})
        assert [one.title for one in config.decoders] == ["fcam-grad_cam-S5"]
        assert [one.title for one in config.segmenters] == ["unet-first", "recurseed-epm"]

    def test_round_trips(self, tmp_path: Path) -> None:
        recurse = {"rounds": 2, "train": {**UNET, "name": "again", "labels": "unet-ground_truth"}}
        config = run({**UNET, "labels": GROUND_TRUTH, "inference": {"scales": [1.0, 0.5]}}, recurse=recurse)
        path = tmp_path / "dumped.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        assert load_config(path) == config


class TestMasksToLearnFrom:
    @pytest.mark.parametrize(
        "labels", ["grad_cam-S5", "layer_cam-S5", "fcam-grad_cam-S5", "recurseed-epm", "ground_truth"]
    )
    def test_of_anything_that_comes_before(self, labels: str) -> None:
        config = run(FCAM, {"model": "recurseed"}, {**UNET, "labels": labels})
        assert config.segmenters[-1].title == f"unet-{labels}"

    def test_of_a_proposal_of_the_sweep(self) -> None:
        sweep = {"method": "xgrad_cam", "layers": ["S4"], "truncations": [0, 50]}
        labels = run(sweep=sweep).all_proposals[-1].title
        assert run({**UNET, "labels": labels}, sweep=sweep).segmenters[0].title == f"unet-{labels}"

    def test_a_decoder_may_come_later_in_the_list(self) -> None:
        # Decoders are a step of their own, and that step comes first.
        assert run({**UNET, "labels": "fcam-grad_cam-S5"}, FCAM).segmenters[0].title == "unet-fcam-grad_cam-S5"

    def test_refuses_unknown_ones_with_the_list_of_known(self) -> None:
        message = (
            r"train: unet-cam: labels: expected ground_truth or one of grad_cam-S5, layer_cam-S5, fcam-grad_cam-S5, "
            r"saw 'cam'; a network that predicts masks comes before those that learn from them"
        )
        with pytest.raises(ValueError, match=message):
            run(FCAM, {**UNET, "labels": "cam"})

    def test_refuses_those_of_a_later_network(self) -> None:
        first, second = {**UNET, "name": "first"}, {**UNET, "name": "second", "labels": "first"}
        assert [one.title for one in run(first, second).segmenters] == ["first", "second"]
        with pytest.raises(ValueError, match=r"train: second: labels: expected .* saw 'first'"):
            run(second, first)

    def test_refuses_its_own(self) -> None:
        with pytest.raises(ValueError, match="saw 'me'"):
            run({**UNET, "name": "me", "labels": "me"})

    @pytest.mark.parametrize("value", [True, 7])
    def test_refuses_what_is_no_name(self, value: object) -> None:
        with pytest.raises(ValueError, match="labels"):
            run({**UNET, "labels": value})


class TestRefusals:
    def test_confidence_of_the_ground_truth(self, tmp_path: Path) -> None:
        train = [{**UNET, "labels": GROUND_TRUTH, "confidence": True}]
        found = refused(tmp_path, train=train)
        assert "confidence: expected masks that were made here, the ground truth has no confidence" in found
        assert "run.yaml: train.0" in found

    @pytest.mark.parametrize("where", ["train", "recurse"])
    def test_images_smaller_than_the_crop(self, where: str) -> None:
        small = {**UNET, "resize": 96}
        sections: dict[str, Any] = {"recurse": {"train": small}} if where == "recurse" else {"train": [small]}
        with pytest.raises(
            ValueError, match=r"unet-first: resize: expected at least classifier\.input_size, 224, saw 96"
        ):
            run(**sections)
        assert run(**sections, classifier={"input_size": 96})
        small["input_size"] = 96
        assert run(**sections)
        small["input_size"] = 128
        with pytest.raises(ValueError, match=r"resize: expected at least input_size, 128, saw 96"):
            run(**sections)

    def test_equal_titles(self) -> None:
        with pytest.raises(ValueError, match="expected different names, seen twice: unet-first"):
            run(UNET, {**UNET, "width": 16})

    def test_the_title_of_a_proposal(self) -> None:
        with pytest.raises(ValueError, match="seen twice: grad_cam-S5"):
            run({**UNET, "name": "grad_cam-S5"})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model": "segnet"}, "segnet"),
            ({"width": 4}, "width: expected greater than or equal to 8, saw 4"),
            ({"confidence": "some"}, "confidence"),
            ({"split": [""]}, "split"),
            ({"keep_stride": ["S1"]}, "keep_stride"),
            ({"optimise": {"batch_size": 1}}, "optimise.batch_size: expected greater than or equal to 2, saw 1"),
            ({"optimise": {"epochs": 0}}, "optimise.epochs: expected greater than or equal to 1, saw 0"),
            ({"inference": {"gate": "all"}}, "inference.gate: expected 'none', 'scores' or 'labels', saw 'all'"),
            ({"inference": {"scales": []}}, "inference.scales"),
            ({"inference": {"scales": [1.0, 0]}}, "inference.scales"),
            ({"inference": {"scales": [8.0]}}, "inference.scales"),
            ({"inference": {"gate_threshold": 2}}, "inference.gate_threshold: expected less than or equal to 1, saw 2"),
            ({"select": "miou"}, "select: expected no such key, saw 'miou'"),
        ],
    )
    def test_names_file_and_key(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        found = refused(tmp_path, train=[{**UNET, **change}])
        assert "run.yaml: train.0" in found
        assert message in found


class TestRecurse:
    def test_off_by_default(self) -> None:
        assert run().recurse is None

    def test_defaults(self) -> None:
        made = Recurse.model_validate({"train": UNET})
        assert (made.rounds, made.stop) == (3, 0.02)

    def test_every_round_learns_from_the_one_before(self) -> None:
        made = Recurse.model_validate({"train": {**UNET, "labels": "layer_cam-S5"}})
        rounds = [made.round(number) for number in (1, 2, 3)]
        assert [one.labels for one in rounds] == [
            "layer_cam-S5",
            "unet-layer_cam-S5 round 1",
            "unet-layer_cam-S5 round 2",
        ]
        assert [one.title for one in rounds] == [f"unet-layer_cam-S5 round {number}" for number in (1, 2, 3)]
        assert [made.title(number) for number in (1, 2, 3)] == [one.title for one in rounds]
        assert all(one.settings == made.train.settings for one in rounds)

    def test_the_first_round_learns_from_the_first_proposal(self) -> None:
        made = Recurse.model_validate({"train": UNET})
        assert made.round(1).labels is None
        assert made.title(1) == "unet-first round 1"

    def test_a_network_of_train_may_be_recursed_too(self) -> None:
        config = run(UNET, recurse={"train": UNET})
        assert config.recurse is not None
        assert config.recurse.train.title == config.segmenters[0].title

    def test_learns_from_a_network_of_train(self) -> None:
        config = run({"model": "recurseed"}, recurse={"train": {**UNET, "labels": "recurseed-epm"}})
        assert config.recurse is not None
        assert config.recurse.title(2) == "unet-recurseed-epm round 2"

    def test_refuses_the_ceiling(self, tmp_path: Path) -> None:
        found = refused(tmp_path, recurse={"train": {**UNET, "labels": GROUND_TRUTH}})
        assert "run.yaml: recurse" in found
        assert "train.labels: expected masks to begin with, saw ground_truth; recursion improves masks" in found

    def test_refuses_unknown_labels(self) -> None:
        message = (
            r"recurse: train\.labels: expected one of grad_cam-S5, layer_cam-S5, unet-first, saw 'unet-first round 1'"
        )
        with pytest.raises(ValueError, match=message):
            run(UNET, recurse={"train": {**UNET, "labels": "unet-first round 1"}})

    @pytest.mark.parametrize("number", [1, 3])
    def test_titles_of_rounds_are_nobody_elses(self, number: int) -> None:
        taken = {**UNET, "name": f"unet-first round {number}"}
        with pytest.raises(ValueError, match=f"seen twice: unet-first round {number}"):
            run(taken, recurse={"train": UNET})
        assert run(taken, recurse={"train": UNET, "rounds": number - 1}) if number > 1 else True

    def test_refuses_to_recurse_another_kind_of_network(self) -> None:
        with pytest.raises(ValueError, match="model"):
            run(recurse={"train": {"model": "recurseed"}})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rounds": 0}, "rounds: expected greater than or equal to 1, saw 0"),
            ({"rounds": 21}, "rounds: expected less than or equal to 20, saw 21"),
            ({"stop": -0.1}, "stop: expected greater than or equal to 0, saw -0.1"),
            ({"stop": 1.5}, "stop: expected less than or equal to 1, saw 1.5"),
            ({"truth": True}, "truth: expected no such key, saw True"),
        ],
    )
    def test_names_file_and_key(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        found = refused(tmp_path, recurse={"train": UNET, **change})
        assert f"run.yaml: recurse.{message}" in found

    def test_refuses_to_recurse_without_a_network(self, tmp_path: Path) -> None:
        assert "run.yaml: recurse.train" in refused(tmp_path, recurse={"rounds": 2})
