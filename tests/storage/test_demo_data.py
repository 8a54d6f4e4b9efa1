import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import storage.demo_data
from storage.demo_data import CLASSES, make_demo


def fingerprint(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo") / "data", images=48, size=96)


class TestMakeDemo:
    def test_smoke(self, demo: Path) -> None:
        rows = table(demo)
        assert [*rows[0]] == ["path", "labels", "mask", "split"]
        assert len(rows) == 48
        assert [row["split"] for row in rows[:4]] == ["train", "train", "train", "val"]
        with Image.open(demo / rows[0]["path"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))

    def test_labels_are_what_the_mask_shows(self, demo: Path) -> None:
        for row in table(demo):
            with Image.open(demo / row["mask"]) as mask:
                assert mask.mode == "P"
                seen = [CLASSES[value - 1] for value in np.unique(np.asarray(mask)) if value]
            assert row["labels"] == ";".join(seen)

    def test_objects_cover_5_to_30_percent(self, demo: Path) -> None:
        for row in table(demo):
            with Image.open(demo / row["mask"]) as mask:
                shares = np.bincount(np.asarray(mask).ravel(), minlength=5)[1:] / 96**2
            assert ((shares == 0) | ((shares >= 0.05) & (shares <= 0.30))).all()

    def test_every_class_some_empty_some_with_several(self, demo: Path) -> None:
        counts = {len(row["labels"].split(";")) if row["labels"] else 0 for row in table(demo)}
        assert counts == {0, 1, 2, 3}
        assert {name for row in table(demo) for name in row["labels"].split(";") if name} == set(CLASSES)

    def test_same_parameters_same_bytes(self, demo: Path, tmp_path: Path) -> None:
        assert fingerprint(make_demo(tmp_path / "again", images=48, size=96)) == fingerprint(demo)

    def test_a_smaller_set_is_a_prefix(self, demo: Path, tmp_path: Path) -> None:
        small, large = fingerprint(make_demo(tmp_path / "few", images=3, size=96)), fingerprint(demo)
        assert all(large[name] == digest for name, digest in small.items() if "/" in name)

    def test_seed_changes_pictures(self, demo: Path, tmp_path: Path) -> None:
        other = fingerprint(make_demo(tmp_path / "other", images=2, size=96, seed=1))
        assert other["images/00000.jpg"] != fingerprint(demo)["images/00000.jpg"]

    def test_complete_folder_is_left_alone(self, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise AssertionError("wrote again")

        monkeypatch.setattr(storage.demo_data, "_write", fail)
        assert make_demo(demo, images=48, size=96) == demo

    def test_nothing_stays_after_a_failure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(storage.demo_data, "_scene", fail)
        with pytest.raises(OSError, match="disk full"):
            make_demo(tmp_path / "demo", images=2)
        assert list(tmp_path.iterdir()) == []

    def test_fills_an_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert len(table(make_demo(tmp_path / "empty", images=1, size=64))) == 1

    def test_refuses_other_content(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(FileExistsError, match="found other content"):
            make_demo(tmp_path, images=1)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_refuses_other_parameters(self, demo: Path) -> None:
        with pytest.raises(FileExistsError, match="name another folder"):
            make_demo(demo, images=47, size=96)

    @pytest.mark.parametrize("wrong", [{"images": 0}, {"size": 63}, {"size": 513}, {"seed": -1}])
    def test_refuses_parameters_out_of_range(self, tmp_path: Path, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="expected images >= 1"):
            make_demo(tmp_path / "demo", **wrong)
