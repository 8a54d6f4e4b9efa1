from pathlib import Path

import pytest

from configs import dump_config, load_config, preset_names
from configs.dataset import TableDataset, VocDataset, WsolDataset
from configs.decoders import DipsDecoder, FcamDecoder

TRAINED = {
    "dips-cub",
    "fcam-cub",
    "fcam-openimages",
    "puzzle-voc2012",
    "recurseed-coco2014",
    "recurseed-small",
    "recurseed-voc2012",
}
TRIALS = sorted(set(preset_names()) - {"demo"} - TRAINED)


class TestPresets:
    def test_the_promised_ones_ship(self) -> None:
        trials = {"demo", "ksdd2", "magnetic-tile", "natural-voc", "neu-seg", "voc2012"}
        assert trials | {"cub200", "openimages", "imagenet"} | TRAINED <= set(preset_names())

    @pytest.mark.parametrize("name", preset_names())
    def test_loads_and_round_trips(self, name: str, tmp_path: Path) -> None:
        config = load_config(f"preset:{name}")
        (tmp_path / "run.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(tmp_path / "run.yaml") == config

    @pytest.mark.parametrize("name", preset_names())
    def test_root_is_the_users(self, name: str) -> None:
        assert load_config(f"preset:{name}").dataset.root == Path()
        assert load_config(f"preset:{name}", ["dataset.root=/data"]).dataset.root == Path("/data")

    @pytest.mark.parametrize("name", preset_names())
    def test_names_no_place_of_a_machine(self, name: str) -> None:
        config = load_config(f"preset:{name}")
        assert not (config.classifier.weights or "").startswith(("/", "~"))
        assert config.report.title != "Maskmill run"

    @pytest.mark.parametrize("name", TRIALS)
    def test_trials_compare_the_same_proposals(self, name: str) -> None:
        titles = [proposal.title for proposal in load_config(f"preset:{name}").proposals]
        assert titles[:2] == ["grad_cam-S5", "layer_cam-S5"]
        assert len(titles) == 8
        assert "lt_grad_cam-S1+S2+S3+S4+S5-d20" in titles

    def test_frozen_weights_take_blue_first(self) -> None:
        normalise = load_config("preset:natural-voc").classifier.normalise
        assert (normalise.channels, normalise.scale, normalise.mean[0]) == ("bgr", 1.0, 104.0)

    @pytest.mark.parametrize(
        ("name", "split", "masks"),
        [
            ("cub200", ["train", "val", "test"], None),
            ("openimages", ["train", "val", "test"], "dataset/OpenImages"),
            ("imagenet", ["val", "test"], None),
        ],
    )
    def test_localization_sets(self, name: str, split: list[str], masks: str | None) -> None:
        config = load_config(f"preset:{name}")
        assert isinstance(config.dataset, WsolDataset)
        assert (config.dataset.split, config.dataset.masks, config.dataset.classes) == (split, masks, None)
        assert (config.classifier.backbone, config.classifier.input_size) == ("resnet50", 224)
        part = load_config(f"preset:{name}", ["dataset.classes=['0', '217']"]).dataset
        assert part.classes == ["0", "217"]


class TestPresetsOnData:
    """The tables and lists that the presets name are those of the data sets."""

    @pytest.mark.parametrize(("name", "folder"), [("magnetic-tile", "magnetic_tile"), ("neu-seg", "neu_seg")])
    def test_table_columns(self, shared: Path, name: str, folder: str) -> None:
        dataset = load_config(f"preset:{name}").dataset
        assert isinstance(dataset, TableDataset)
        with (shared / "data" / folder / dataset.table).open(encoding="utf-8") as file:
            header = file.readline().strip().split(",")
        assert {dataset.path, dataset.mask, dataset.split_column, *(dataset.label_columns or [])} <= set(header)

    def test_voc_lists(self, shared: Path) -> None:
        dataset = load_config("preset:natural-voc").dataset
        assert isinstance(dataset, VocDataset)
        for split in dataset.split:
            assert (shared / "data" / "natural_voc" / dataset.lists / f"{split}.txt").is_file()

    def test_decoders_have_the_published_settings(self) -> None:
        fcam = load_config("preset:fcam-cub").train[0]
        assert isinstance(fcam, FcamDecoder)
        assert fcam == load_config("preset:fcam-openimages").train[0].model_copy(
            update={"select": "max_box_acc", "optimise": fcam.optimise}
        )
        assert (fcam.optimise.learning_rate, fcam.optimise.batch_size, fcam.crf.weight) == (0.01, 32, 2e-9)
        assert (fcam.seeds.erosion, fcam.seeds.foreground, fcam.seeds.background_share) == (11, 1, 0.1)
        dips = load_config("preset:dips-cub").train[0]
        assert isinstance(dips, DipsDecoder)
        assert (dips.seeds.weight, dips.classifier, dips.optimise.learning_rate) == (0.384, 0.669, 0.0465)
        assert (dips.seeds.foreground, dips.seeds.background, dips.regions.top) == (5139, 2399, 2)
