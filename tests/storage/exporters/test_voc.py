import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import storage.exporters.voc
from storage.exporters import EXPORTERS, Record, export_voc, voc_palette
from storage.exporters.records import Mask

IDS = [
    "plain_1",
    "PLAIN_1",
    "a/b/c",
    "../up",
    "🦊 fox",
    "x" * 240,
    'quote " comma , line \n return \r',
    "é",
    ".hidden",
    "",
]


def masks(ids: list[str]) -> list[tuple[str, Mask]]:
    rng = np.random.default_rng(0)
    values = np.array([0, 1, 2, 254, 255], np.uint8)
    return [(image_id, rng.choice(values, (5 + row, 9))) for row, image_id in enumerate(ids)]


def read_back(out: Path) -> dict[str, Mask]:
    with (out / "ids.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        with Image.open(out / row["file"]) as image:
            assert image.mode == "P"
            found[row["image_id"]] = np.asarray(image)
    return found


class TestExportVoc:
    def test_smoke(self, tmp_path: Path) -> None:
        assert export_voc(masks(["a", "b"]), tmp_path) == 2
        assert sorted(path.name for path in (tmp_path / "SegmentationClass").iterdir()) == ["a.png", "b.png"]

    def test_round_trip_of_hostile_ids(self, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out"
        written = dict(masks(IDS))
        assert export_voc(written.items(), out) == len(IDS)
        found = read_back(out)
        assert list(found) == IDS
        for image_id, mask in written.items():
            np.testing.assert_array_equal(found[image_id], mask)
        assert {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.*")} == {("deep", "out")}

    def test_palette(self, tmp_path: Path) -> None:
        export_voc([("a", np.array([[0, 1, 255]], np.uint8))], tmp_path)
        with Image.open(tmp_path / "SegmentationClass" / "a.png") as image:
            assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
            assert image.convert("RGB").getpixel((2, 0)) == (224, 224, 192)

    def test_own_palette(self, tmp_path: Path) -> None:
        export_voc([("a", np.array([[1]], np.uint8))], tmp_path, palette=voc_palette()[::-1].copy())
        with Image.open(tmp_path / "SegmentationClass" / "a.png") as image:
            assert image.convert("RGB").getpixel((0, 0)) == tuple(voc_palette()[254].tolist())

    def test_no_image(self, tmp_path: Path) -> None:
        assert export_voc([], tmp_path) == 0
        assert read_back(tmp_path) == {}

    def test_exporter_writes_the_class_names(self, tmp_path: Path) -> None:
        assert EXPORTERS["voc"]([Record("a", "a.jpg", np.array([[2]], np.uint8))], ["cat", "dög"], tmp_path) == 1
        assert (tmp_path / "labels.txt").read_text(encoding="utf-8") == "background\ncat\ndög\n"

    def test_interrupted_export_is_written_again(self, tmp_path: Path) -> None:
        def stopping() -> Iterator[tuple[str, Mask]]:
            yield from masks(["a", "b"])
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            export_voc(stopping(), tmp_path)
        assert not (tmp_path / "ids.csv").exists()
        assert export_voc(masks(["a", "b", "c"]), tmp_path) == 3

    def test_failing_write_leaves_no_part(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> bytes:
            raise OSError("disk full")

        monkeypatch.setattr(storage.exporters.voc, "_png", fail)
        with pytest.raises(OSError, match="disk full"):
            export_voc(masks(["a"]), tmp_path)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_refuses_an_earlier_export(self, tmp_path: Path) -> None:
        export_voc(masks(["a"]), tmp_path)
        with pytest.raises(FileExistsError, match=r"found ids\.csv"):
            export_voc(masks(["b"]), tmp_path)

    @pytest.mark.parametrize("palette", [np.zeros((21, 3), np.uint8), np.zeros((256, 3))])
    def test_refuses_other_palettes(self, tmp_path: Path, palette: NDArray[np.uint8]) -> None:
        with pytest.raises(ValueError, match=r"expected a palette \(256, 3\) uint8"):
            export_voc([], tmp_path, palette=palette)

    def test_refuses_an_id_twice(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="once, found it twice"):
            export_voc(masks(["a", "a"]), tmp_path)
