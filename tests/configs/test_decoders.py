from pathlib import Path
from typing import Any

import pytest

from configs import ConfigError, RunConfig, load_config
from configs.decoders import DipsDecoder, FcamDecoder

DATASET = {"format": "voc", "root": "."}
GRAD_CAM = {"method": "grad_cam"}
FCAM = {"model": "fcam", "proposal": "grad_cam-S5"}
TRANSFORMER = {"weights": "vit.pth"}
RUN = """
dataset: {format: voc, root: .}
proposals:
  - {method: grad_cam}
train:
  - {model: fcam, proposal: grad_cam-S5}
"""


def run(*train: dict[str, Any], proposals: list[dict[str, Any]] | None = None, **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"dataset": DATASET, "proposals": proposals or [GRAD_CAM], "train": list(train), **sections}
    )


def refused(tmp_path: Path, *overrides: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


class TestDecoders:
    @pytest.mark.parametrize(
        ("decoder", "title"),
        [
            (FCAM, "fcam-grad_cam-S5"),
            ({**FCAM, "name": "mine"}, "mine"),
            ({"model": "dips"}, "dips-resnet50"),
            ({"model": "dips", "encoder": "small"}, "dips-small"),
        ],
    )
    def test_titles(self, decoder: dict[str, Any], title: str) -> None:
        (made,) = run(decoder, transformer=TRANSFORMER).train
        assert made.title == title

    def test_settings_hold_all_but_the_name(self) -> None:
        (plain,), (named,) = run(FCAM).train, run({**FCAM, "name": "mine"}).train
        assert named.settings == plain.settings
        assert "name" not in plain.settings
        assert plain.settings["crf"]["weight"] == 2e-9

    def test_defaults_are_the_papers(self) -> None:
        fcam, dips = FcamDecoder(model="fcam", proposal="cam"), DipsDecoder(model="dips")
        assert (fcam.seeds.foreground, fcam.seeds.background, fcam.seeds.erosion, fcam.seeds.dilation) == (1, 1, 11, 3)
        assert (fcam.seeds.background_share, fcam.size.weight, fcam.size.growth, fcam.size.end) == (0.1, 0.1, 1.01, 10)
        assert (fcam.crf.sigma_rgb, fcam.crf.sigma_xy, fcam.crf.scale) == (15, 100, 1)
        assert (fcam.optimise.optimiser, fcam.optimise.learning_rate, fcam.optimise.epochs) == ("sgd", 0.01, 50)
        assert (dips.size.weight, dips.regions.min_size, dips.regions.top) == (0, 0.75, 2)

    def test_a_decoder_may_learn_from_any_proposal(self) -> None:
        proposals: list[dict[str, Any]] = [GRAD_CAM, {"method": "dino", "head": 2}, {"method": "ts_cam"}]
        train = [{**FCAM, "proposal": name} for name in ("grad_cam-S5", "dino-head2", "ts_cam")]
        titles = [one.title for one in run(*train, proposals=proposals, transformer=TRANSFORMER).train]
        assert titles == ["fcam-grad_cam-S5", "fcam-dino-head2", "fcam-ts_cam"]


class TestRefusals:
    def test_refuses_an_unknown_proposal(self) -> None:
        with pytest.raises(ValueError, match=r"fcam-cam: proposal: expected one of grad_cam-S5, saw 'cam'"):
            run({**FCAM, "proposal": "cam"})

    def test_refuses_a_decoder_as_the_proposal_of_another(self) -> None:
        with pytest.raises(ValueError, match=r"expected one of grad_cam-S5, saw 'fcam-grad_cam-S5'"):
            run(FCAM, {**FCAM, "proposal": "fcam-grad_cam-S5"})

    @pytest.mark.parametrize(
        ("proposals", "train", "titles"),
        [
            ([GRAD_CAM, {"method": "dino"}], [], "dino"),
            ([GRAD_CAM, {"method": "ts_cam"}], [{"model": "dips"}], "ts_cam, dips-resnet50"),
            ([GRAD_CAM], [{"model": "dips", "encoder": "small"}], "dips-small"),
        ],
    )
    def test_refuses_attention_without_a_transformer(
        self, proposals: list[dict[str, Any]], train: list[dict[str, Any]], titles: str
    ) -> None:
        with pytest.raises(ValueError, match=f"transformer: expected a transformer for {titles}, saw none"):
            run(*train, proposals=proposals)

    def test_refuses_a_transformer_without_weights_or_pretraining(self) -> None:
        with pytest.raises(ValueError, match=r"transformer: expected weights .* or pretrain .*, saw neither"):
            run(proposals=[GRAD_CAM, {"method": "dino"}], transformer={"backbone": "vit_mini"})
        assert run(transformer={"pretrain": {}}).transformer is not None

    def test_refuses_scales_out_of_order(self) -> None:
        with pytest.raises(ValueError, match=r"pretrain\.local_scale: .*saw 0\.4 and 0\.1"):
            run(transformer={"pretrain": {"local_scale": [0.4, 0.1]}})

    def test_refuses_attention_alone(self) -> None:
        with pytest.raises(ValueError, match="expected at least one that the classifier makes"):
            run(proposals=[{"method": "dino"}], transformer=TRANSFORMER)

    def test_refuses_classes_of_attention(self) -> None:
        proposals = [GRAD_CAM, {"method": "dino"}, {"method": "ts_cam", "classes": "dino"}]
        with pytest.raises(ValueError, match="ts_cam: classes: expected one of grad_cam-S5, saw 'dino'"):
            run(proposals=proposals, transformer=TRANSFORMER)

    @pytest.mark.parametrize("second", [FCAM, {**FCAM, "flip": False}, {**FCAM, "name": "grad_cam-S5"}])
    def test_refuses_equal_titles(self, second: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"expected different names, seen twice: (fcam-)?grad_cam-S5"):
            run(FCAM, second)
        assert len(run(FCAM, {**second, "name": "other"}).train) == 2

    @pytest.mark.parametrize(
        ("override", "place"),
        [
            ("train.0.seeds.erosion=4", "expected an odd side, 1 for none, saw 4"),
            ("train.0.seeds.dilation=2", "expected an odd side, 1 for none, saw 2"),
            ("train.0.seeds.dilation=0", "seeds.dilation"),
            ("train.0.size.growth=0.9", ".size.growth"),
            ("train.0.select=miou", ".select"),
            ("train.0.regions={min_size: 1}", "regions"),
            ("train.0.model=u_net", "fcam"),
            ("train.0.optimise.learning_rate=0", ".optimise.learning_rate"),
        ],
    )
    def test_names_the_place(self, tmp_path: Path, override: str, place: str) -> None:
        said = refused(tmp_path, override)
        assert "train.0" in said
        assert place in said
