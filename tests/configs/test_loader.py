from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import ConfigError, RunConfig, dump_config, load_config, preset_names
from configs.dataset import TableDataset, VocDataset

RUN = """
dataset: {format: voc, root: data, split: train}
classifier: {train: {learning_rate: 1e-4}}
proposals:
  - {method: grad_cam}
  - {method: layer_cam, layers: [S4, S5], truncation: 20}
"""
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    return path


class TestLoadConfig:
    def test_smoke(self, run: Path) -> None:
        config = load_config(run)
        assert isinstance(config.dataset, VocDataset)
        assert config.dataset.root == Path("data")
        assert config.dataset.split == ["train"]
        assert config.classifier.train.learning_rate == 1e-4
        assert [proposal.title for proposal in config.proposals] == ["grad_cam-S5", "lt_layer_cam-S4+S5-d20"]

    def test_defaults_are_filled_in(self, run: Path) -> None:
        config = load_config(run)
        assert [step.step for step in config.refine] == ["otsu"]
        assert config.runtime.shard_images == 100

    def test_preset(self) -> None:
        assert load_config("preset:demo").report.title == "Maskmill demo"

    @pytest.mark.parametrize("name", ["nothing", "", "../schema", "demo.yaml"])
    def test_refuses_unknown_preset(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"expected one of the presets {', '.join(preset_names())}, saw "):
            load_config(f"preset:{name}")

    def test_refuses_absent_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.yaml: expected a readable YAML file or preset:NAME, saw .*No"):
            load_config(tmp_path / "none.yaml")

    def test_refuses_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="expected a readable YAML file"):
            load_config(tmp_path)

    def test_refuses_binary_file(self, run: Path) -> None:
        run.write_bytes(b"\xff\xfe\x00a")
        with pytest.raises(ConfigError, match="expected a readable YAML file"):
            load_config(run)

    @pytest.mark.parametrize(("text", "seen"), [("", "an empty file"), ("- a", "list"), ("just text", "str")])
    def test_refuses_what_is_no_mapping(self, run: Path, text: str, seen: str) -> None:
        run.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=f"expected a mapping of sections, saw {seen}$"):
            load_config(run)

    def test_refuses_duplicate_key(self, run: Path) -> None:
        run.write_text(RUN + "dataset: {}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"run\.yaml: line 7: key 'dataset' is written twice \(first in line 2\)"):
            load_config(run)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("dataset.splitt=train", r"dataset\.splitt: expected no such key, saw 'train'"),
            ("dataset.split=[1]", r"dataset\.split\.0: expected text, saw 1"),
            ("dataset.split=[]", r"dataset\.split: expected at least 1 item\(s\), saw \[\]"),
            ("dataset.format=csv", r"dataset\.format: expected one of 'voc', .*saw 'csv'"),
            ("dataset.palette=bgr", r"dataset\.palette: expected 'auto', 'index' or 'rgb', saw 'bgr'"),
            ("classifier.train.epochs=2.0", r"classifier\.train\.epochs: expected a valid integer, saw 2\.0"),
            ("classifier.train.epochs='2'", r"classifier\.train\.epochs: expected a valid integer, saw '2'"),
            ("classifier.frozen=1", r"classifier\.frozen: expected a valid boolean, saw 1"),
            ("proposals.1.truncation=100", r"proposals\.1\.truncation: expected less than or equal to 99, saw 100"),
            ("proposals.0.layers=[]", r"proposals\.0\.layers: "),
            ("more=1", r"run\.yaml: more: expected no such key, saw 1"),
            ("dataset=3", r"run\.yaml: dataset: .*saw 3"),
        ],
    )
    def test_error_names_file_key_expected_and_seen(self, run: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_config(run, [override])

    def test_refuses_proposals_of_one_name(self, run: Path) -> None:
        same = ["proposals.1.method=grad_cam", "proposals.1.layers=[S5]", "proposals.1.truncation=null"]
        with pytest.raises(ConfigError, match="expected different names, seen twice: grad_cam-S5"):
            load_config(run, same)


class TestOverrides:
    def test_values_are_yaml(self, run: Path) -> None:
        config = load_config(
            run,
            ["dataset.root=/other place", "classifier.train.learning_rate=2e-3", "dataset.split=[train, val]"],
        )
        assert config.dataset.root == Path("/other place")
        assert config.classifier.train.learning_rate == 2e-3
        assert config.dataset.split == ["train", "val"]

    def test_makes_absent_sections(self, run: Path) -> None:
        assert load_config(run, ["runtime.shard_images=7"]).runtime.shard_images == 7

    def test_reaches_list_items(self, run: Path) -> None:
        config = load_config(run, ["proposals.0.truncation=0", "proposals.1.layers.0=S3"])
        assert [proposal.title for proposal in config.proposals] == ["lt_grad_cam-S5-d0", "lt_layer_cam-S3+S5-d20"]

    def test_replaces_a_section(self, run: Path) -> None:
        config = load_config(run, ["dataset={format: table, root: ., table: t.csv}"])
        assert isinstance(config.dataset, TableDataset)

    def test_last_wins(self, run: Path) -> None:
        assert load_config(run, ["runtime.workers=1", "runtime.workers=2"]).runtime.workers == 2

    def test_value_may_hold_equals_and_nothing(self, run: Path) -> None:
        assert load_config(run, ["report.title=a=b"]).report.title == "a=b"
        assert load_config(run, ["classifier.weights="]).classifier.weights is None

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("runtime.workers", "expected section.key=value"),
            ("=3", "expected section.key=value"),
            ("runtime..workers=3", "expected section.key=value"),
            ("proposals.2.method=grad_cam", r"expected an item number 0\.\.1, saw '2'"),
            ("proposals.x=1", r"expected an item number 0\.\.1, saw 'x'"),
            ("proposals.-1={}", r"expected an item number 0\.\.1, saw '-1'"),
            ("dataset.root.deep=1", "expected dataset.root to hold keys, saw 'data'"),
            ("dataset.root.very.deep=1", "expected keys around 'very', saw 'data'"),
            ("runtime.workers=[1", "expected valid YAML"),
            ("runtime={workers: 1, workers: 2}", "key 'workers' is written twice"),
            ("runtime.device=!!python/name:os.system", "could not determine a constructor"),
        ],
    )
    def test_refuses(self, run: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as refused:
            load_config(run, [override])
        assert "--set" in str(refused.value)


class TestDumpConfig:
    def test_round_trip(self, run: Path, tmp_path: Path) -> None:
        config = load_config(run)
        (tmp_path / "again.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(tmp_path / "again.yaml") == config

    @given(st.lists(names, min_size=1, max_size=3), names, st.floats(1e-300, 1e300))
    @settings(max_examples=50)
    def test_round_trip_of_any_names(
        self, tmp_path_factory: pytest.TempPathFactory, classes: list[str], title: str, rate: float
    ) -> None:
        config = RunConfig.model_validate(
            {
                "dataset": {"format": "voc", "root": ".", "classes": classes},
                "classifier": {"train": {"learning_rate": rate}},
                "report": {"title": title},
            }
        )
        path = tmp_path_factory.getbasetemp() / "any-names.yaml"
        path.write_text(dump_config(config), encoding="utf-8", newline="")
        assert load_config(path) == config
