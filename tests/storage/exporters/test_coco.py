import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from storage.exporters import EXPORTERS, Record, export_coco
from storage.exporters.records import Mask

# pycocotools decodes through an array protocol that numpy 2 finds dated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IDS = ["plain", "PLAIN", "a/b/c", "../up", "🦊 fox", "x" * 240, 'quote " line \n', ""]
CLASSES = ["cat", "dög", "cat"]


def records(values: tuple[int, ...] = (0, 1, 3, 255)) -> list[Record]:
    rng = np.random.default_rng(0)
    return [
        Record(image_id, f"images/{row}.jpg", rng.choice(np.array(values, np.uint8), (5 + row, 9)))
        for row, image_id in enumerate(IDS)
    ]


def load(out: Path) -> Any:
    return json.loads((out / "instances.json").read_text(encoding="utf-8"))


def masks_of(data: Any) -> dict[str, Mask]:
    images = {image["id"]: image for image in data["images"]}
    found = {image["name"]: np.zeros((image["height"], image["width"]), np.uint8) for image in data["images"]}
    for annotation in data["annotations"]:
        mask = rle.decode(annotation["segmentation"]).astype(bool)
        found[images[annotation["image_id"]]["name"]][mask] = annotation["category_id"]
        assert annotation["area"] == mask.sum()
    return found


class TestExportCoco:
    def test_smoke(self, tmp_path: Path) -> None:
        mask = np.zeros((4, 6), np.uint8)
        mask[1:3, 2:5] = 2
        assert export_coco([Record("a", "images/a.jpg", mask)], ["cat", "dog"], tmp_path) == 1
        data = load(tmp_path)
        assert data["images"] == [{"id": 1, "file_name": "images/a.jpg", "name": "a", "height": 4, "width": 6}]
        assert [(item["id"], item["name"]) for item in data["categories"]] == [(1, "cat"), (2, "dog")]
        (annotation,) = data["annotations"]
        assert annotation["bbox"] == [2, 1, 3, 2]
        assert (annotation["id"], annotation["category_id"], annotation["area"], annotation["iscrowd"]) == (1, 2, 6, 0)
        assert isinstance(annotation["segmentation"]["counts"], str)

    def test_round_trip_of_hostile_ids(self, tmp_path: Path) -> None:
        assert export_coco(records(), CLASSES, tmp_path / "deep" / "out") == len(IDS)
        found = masks_of(load(tmp_path / "deep" / "out"))
        assert list(found) == IDS
        for record in records():
            np.testing.assert_array_equal(found[record.image_id], record.mask)

    def test_ignored_pixels_are_a_crowd(self, tmp_path: Path) -> None:
        export_coco(records(), CLASSES, tmp_path)
        data = load(tmp_path)
        assert {(item["category_id"] == 255, item["iscrowd"]) for item in data["annotations"]} == {
            (True, 1),
            (False, 0),
        }
        assert data["categories"][-1]["name"] == "ignore"

    def test_no_ignored_pixel_no_extra_category(self, tmp_path: Path) -> None:
        export_coco(records((0, 1)), CLASSES, tmp_path)
        assert [item["id"] for item in load(tmp_path)["categories"]] == [1, 2, 3]

    def test_pycocotools_reads_it(self, tmp_path: Path) -> None:
        export_coco(records(), CLASSES, tmp_path)
        coco = COCO(tmp_path / "instances.json")
        assert len(coco.getImgIds()) == len(IDS)
        first = coco.loadAnns(coco.getAnnIds(imgIds=[1], catIds=[3]))[0]
        np.testing.assert_array_equal(coco.annToMask(first), records()[0].mask == 3)

    def test_same_input_same_bytes(self, tmp_path: Path) -> None:
        for name in "ab":
            export_coco(records(), CLASSES, tmp_path / name)
        assert (tmp_path / "a" / "instances.json").read_bytes() == (tmp_path / "b" / "instances.json").read_bytes()

    def test_no_image(self, tmp_path: Path) -> None:
        assert EXPORTERS["coco"]([], [], tmp_path) == 0
        assert load(tmp_path)["annotations"] == []

    def test_failure_leaves_nothing(self, tmp_path: Path) -> None:
        def stopping() -> Iterator[Record]:
            yield records()[0]
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            export_coco(stopping(), CLASSES, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_refuses_an_earlier_export(self, tmp_path: Path) -> None:
        export_coco([], [], tmp_path)
        with pytest.raises(FileExistsError, match=r"found instances\.json"):
            export_coco([], [], tmp_path)

    def test_refuses_values_above_the_classes(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"values 0\.\.2 and 255, got 3"):
            export_coco(records(), ["cat", "dog"], tmp_path)
