from typing import Any

import pytest

from configs import RunConfig
from configs.affinity import Affinity
from configs.decoders import FcamDecoder

AFFINITY = {"model": "affinity", "proposal": "grad_cam-S5"}


def run(*train: dict[str, Any], **sections: Any) -> RunConfig:
    dataset = {"format": "voc", "root": "."}
    return RunConfig.model_validate(
        {"dataset": dataset, "proposals": [{"method": "grad_cam"}], "train": list(train), **sections}
    )


class TestAffinity:
    def test_smoke(self) -> None:
        (made,) = run(AFFINITY).train
        assert isinstance(made, Affinity)
        assert made.title == "affinity-grad_cam-S5"
        assert run({**AFFINITY, "name": "edges"}).train[0].title == "edges"

    def test_defaults_are_the_papers(self) -> None:
        made = Affinity(model="affinity", proposal="cam")
        assert (made.foreground, made.background, made.radius) == (0.40, 0.10, 10)
        assert (made.walk.radius, made.walk.beta, made.walk.times) == (5, 10, 8)
        fit = made.optimise
        assert (fit.optimiser, fit.learning_rate, fit.schedule, fit.epochs) == ("sgd", 0.1, "poly", 3)
        assert (fit.weight_decay, fit.power, fit.batch_size) == (1e-4, 0.9, 32)

    def test_settings_hold_what_decides_the_weights(self) -> None:
        (plain,), (other,) = run(AFFINITY).train, run({**AFFINITY, "name": "edges", "walk": {"beta": 4}}).train
        assert other.settings == plain.settings
        assert not {"name", "walk"} & set(plain.settings)
        for change in ({"radius": 5}, {"foreground": 0.5}, {"clean": "none"}, {"optimise": {"epochs": 2}}):
            (changed,) = run({**AFFINITY, **change}).train
            assert changed.settings != plain.settings, change

    def test_no_number_chooses_the_epoch(self) -> None:
        assert Affinity(model="affinity", proposal="cam").select is None
        assert "select" not in Affinity(model="affinity", proposal="cam").settings

    def test_beside_a_decoder(self) -> None:
        first, second = run({"model": "fcam", "proposal": "grad_cam-S5"}, AFFINITY).train
        assert isinstance(first, FcamDecoder)
        assert isinstance(second, Affinity)


class TestRefusals:
    @pytest.mark.parametrize("proposal", ["cam", "fcam-grad_cam-S5"])
    def test_refuses_an_unknown_proposal(self, proposal: str) -> None:
        train = [{"model": "fcam", "proposal": "grad_cam-S5"}, {**AFFINITY, "proposal": proposal}]
        with pytest.raises(ValueError, match=f"{proposal}: proposal: expected one of grad_cam-S5, saw '{proposal}'"):
            run(*train)

    def test_refuses_bounds_out_of_order(self) -> None:
        with pytest.raises(ValueError, match=r"background: expected at most foreground, 0\.3, saw 0\.5"):
            run({**AFFINITY, "foreground": 0.3, "background": 0.5})

    def test_refuses_equal_titles(self) -> None:
        with pytest.raises(ValueError, match="expected different names, seen twice: affinity-grad_cam-S5"):
            run(AFFINITY, {**AFFINITY, "radius": 5})

    def test_refuses_images_smaller_than_the_crop(self) -> None:
        with pytest.raises(ValueError, match=r"affinity-grad_cam-S5: resize: expected at least classifier\.input_size"):
            run({**AFFINITY, "resize": 64})

    @pytest.mark.parametrize(
        ("change", "place"),
        [
            ({"proposal": ""}, "proposal"),
            ({"radius": 1}, "radius"),
            ({"walk": {"times": 17}}, "times"),
            ({"walk": {"beta": 0}}, "beta"),
            ({"clean": "dense_crf"}, "clean"),
            ({"select": "px_ap"}, "select"),
            ({"foreground": 1.5}, "foreground"),
        ],
    )
    def test_names_the_place(self, change: dict[str, Any], place: str) -> None:
        with pytest.raises(ValueError, match=place):
            run({**AFFINITY, **change})
