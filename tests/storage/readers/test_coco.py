import json
from pathlib import Path
from typing import Any

import pytest

from configs.dataset import CocoDataset
from storage.readers import read_dataset
from storage.samples import Listing, Sample, StagingError
from storage.truth import read_truth

SQUARE = [[0, 0, 2, 0, 2, 2, 0, 2]]
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]


def content(first: int = 9) -> dict[str, Any]:
    images = [
        {"id": first, "file_name": "nine.jpg", "height": 2, "width": 4},
        {"id": first + 1, "file_name": "ten.jpg", "height": 2, "width": 4},
    ]
    annotations = [
        {"id": 1, "image_id": first, "category_id": 18, "segmentation": SQUARE, "iscrowd": 0},
        {
            "id": 2,
            "image_id": first,
            "category_id": 17,
            "segmentation": {"size": [2, 4], "counts": [6, 2]},
            "iscrowd": 1,
        },
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def read(root: Path, *contents: Any, **options: Any) -> Listing:
    (root / "annotations").mkdir(exist_ok=True)
    splits = ["train2017", "val2017"][: len(contents)]
    for split, value in zip(splits, contents, strict=True):
        text = value if isinstance(value, str) else json.dumps(value)
        (root / "annotations" / f"instances_{split}.json").write_text(text)
    return read_dataset(CocoDataset(format="coco", root=root, split=splits, **options))


def truth(root: Path, sample: Sample, classes: tuple[str, ...]) -> Any:
    assert sample.mask is not None
    return read_truth(
        root, sample.mask, classes=classes, labels=sample.labels, size=(2, 4), source="", max_pixels=9
    ).tolist()


class TestReadCoco:
    def test_smoke(self, tmp_path: Path) -> None:
        listing = read(tmp_path, content())
        assert listing.classes == ("cat", "dog")
        first, second = listing.samples
        assert (first.image_id, first.path, first.split) == ("9", "train2017/nine.jpg", "train2017")
        assert first.labels == ("cat", "dog")
        assert "instances_train2017.json: image 1 (id 9)" in first.source
        assert truth(tmp_path, first, listing.classes) == [[2, 2, 0, 255], [2, 2, 0, 255]]
        assert second.labels == ()
        assert truth(tmp_path, second, listing.classes) == [[0] * 4] * 2

    def test_classes_name_the_order(self, tmp_path: Path) -> None:
        listing = read(tmp_path, content(), classes=["dog", "cat"])
        assert listing.classes == ("dog", "cat")
        assert truth(tmp_path, listing.samples[0], listing.classes)[0] == [1, 1, 0, 255]

    def test_ids_that_splits_share_name_the_split(self, tmp_path: Path) -> None:
        assert [sample.image_id for sample in read(tmp_path, content(), content(20)).samples] == ["9", "10", "20", "21"]
        assert [sample.image_id for sample in read(tmp_path, content(), content(10)).samples] == [
            "train2017/9",
            "train2017/10",
            "val2017/10",
            "val2017/11",
        ]

    def test_boxes_alone_are_no_mask(self, tmp_path: Path) -> None:
        value = content()
        value["annotations"][0]["segmentation"] = []
        first, second = read(tmp_path, value).samples
        assert first.labels == ("cat", "dog")
        assert first.mask is None
        assert second.mask is not None

    @pytest.mark.parametrize(
        ("place", "value", "match"),
        [
            (("annotations", 0, "category_id"), 5, "annotation 1: expected the id of a category, saw 5"),
            (("annotations", 0, "image_id"), 5, "annotation 1: expected the id of an image, saw 5"),
            (("annotations", 0, "image_id"), [1], r"image_id \[1\] in entry 1"),
            (("images", 0, "height"), None, "height None in entry 1"),
            (("images", 1, "id"), 9, r"image 2 \(id 9\): .* once"),
            (("categories", 1, "name"), "dog", "every category once, saw dog"),
            (("images",), [], "at least one image"),
            (("categories",), None, "expected COCO instances"),
            (("images", 0, "file_name"), "\ud800", "path that is text"),
        ],
    )
    def test_refusals(self, tmp_path: Path, place: tuple[Any, ...], value: Any, match: str) -> None:
        data = json.loads(json.dumps(content()))
        *outer, last = place
        inner = data
        for key in outer:
            inner = inner[key]
        inner[last] = value
        if place == ("images",):
            data["annotations"] = []
        with pytest.raises(StagingError, match=match):
            read(tmp_path, data)

    @pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', "[" * 10_000])
    def test_refuses_other_files(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(StagingError, match=r"train2017\.json: expected (JSON|COCO)"):
            read(tmp_path, text)

    def test_refuses_other_categories_in_another_split(self, tmp_path: Path) -> None:
        other = {**content(20), "categories": [*CATEGORIES, {"id": 1, "name": "owl"}]}
        with pytest.raises(StagingError, match=r"val2017\.json: expected the categories of"):
            read(tmp_path, content(), other)

    def test_refuses_category_that_is_no_class(self, tmp_path: Path) -> None:
        with pytest.raises(
            StagingError, match=r"image 1 \(id 9\): expected one of dataset\.classes \(cat\), saw 'dog'"
        ):
            read(tmp_path, content(), classes=["cat"])
