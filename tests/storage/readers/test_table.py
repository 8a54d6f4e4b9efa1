from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from configs.dataset import TableDataset
from storage.readers import read_dataset
from storage.samples import Listing, MaskSource, StagingError

LABELS = "path,labels,mask,split\nb.jpg,dog;cat,m/b.png,train\n007,,,val\n"
COLUMNS = "path,cat,dog\na.jpg,1,0\nb.jpg,1,1\nc.jpg,0,0\n"


def read(root: Path, text: str | bytes, **options: Any) -> Listing:
    (root / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_dataset(TableDataset(format="table", root=root, table="t.csv", **options))


class TestReadTable:
    def test_smoke(self, tmp_path: Path) -> None:
        listing = read(tmp_path, LABELS, labels="labels", mask="mask", split_column="split")
        assert listing.classes == ("cat", "dog")
        first, second = listing.samples
        assert (first.image_id, first.path, first.split, first.labels) == ("b.jpg", "b.jpg", "train", ("cat", "dog"))
        assert (first.mask, first.source) == (MaskSource("index", "m/b.png"), "t.csv:2")
        assert (second.image_id, second.labels, second.mask) == ("007", (), None)

    def test_label_columns(self, tmp_path: Path) -> None:
        listing = read(tmp_path, COLUMNS, label_columns=["dog", "cat"])
        assert listing.classes == ("dog", "cat")
        assert [sample.labels for sample in listing.samples] == [("cat",), ("dog", "cat"), ()]
        assert {sample.split for sample in listing.samples} == {"all"}
        assert read(tmp_path, COLUMNS, label_columns=["dog", "cat"], classes=["cat", "dog"]).classes == ("cat", "dog")

    def test_splits_are_chosen(self, tmp_path: Path) -> None:
        listing = read(tmp_path, LABELS, labels="labels", split_column="split", split=["val"], classes=["cat"])
        assert [sample.image_id for sample in listing.samples] == ["007"]

    def test_values_stay_text(self, tmp_path: Path) -> None:
        text = '\ufeffpath,id,labels\r\na.jpg,0010,NA\r\n"b,\n.jpg",1e3,null\r\n'
        listing = read(tmp_path, text, id="id", labels="labels")
        assert [sample.image_id for sample in listing.samples] == ["0010", "1e3"]
        assert listing.classes == ("NA", "null")
        assert listing.samples[1].source == "t.csv:4"

    def test_binary_masks(self, tmp_path: Path) -> None:
        text = "path,mask,defect\na.jpg,a.png,1\n"
        listing = read(tmp_path, text, label_columns=["defect"], mask="mask", mask_values="binary")
        assert listing.samples[0].mask == MaskSource("binary", "a.png")

    def test_parquet(self, tmp_path: Path) -> None:
        frame = pd.DataFrame(
            {"path": ["a", "b"], "id": [1, 2], "cat": [True, False], "dog": [1.0, 0.0], "mask": ["m", None]}
        )
        frame.to_parquet(tmp_path / "t.parquet")
        config = TableDataset(
            format="table", root=tmp_path, table="t.parquet", id="id", label_columns=["cat", "dog"], mask="mask"
        )
        first, second = read_dataset(config).samples
        assert (first.image_id, first.labels, first.mask) == ("1", ("cat", "dog"), MaskSource("index", "m"))
        assert (second.image_id, second.labels, second.mask) == ("2", (), None)
        assert second.source == "t.parquet row 2"

    def test_refuses_what_is_no_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "t.parquet").write_text("path\n")
        with pytest.raises(StagingError, match=r"t\.parquet: expected a Parquet file"):
            read_dataset(TableDataset(format="table", root=tmp_path, table="t.parquet", labels="labels"))

    @pytest.mark.parametrize(
        ("text", "options", "match"),
        [
            (LABELS, {}, "expected one of labels and label_columns"),
            (LABELS, {"labels": "labels", "label_columns": ["cat"]}, "expected one of labels and label_columns"),
            (LABELS, {"labels": "labels", "split": ["val"]}, r"dataset\.split_column"),
            (COLUMNS, {"label_columns": ["cat"], "classes": ["dog"]}, r"names in label_columns \(cat\), saw dog"),
            (LABELS, {"labels": "tags"}, "expected the columns tags, saw only 'path', 'labels', 'mask', 'split'"),
            ("path,cat\na,2\n", {"label_columns": ["cat"]}, r"t\.csv:2: expected 0 or 1 in column cat, saw '2'"),
            ("path,cat\na,\n", {"label_columns": ["cat"]}, "saw ''"),
            ("path,cat,cat\na,1,1\n", {"label_columns": ["cat"]}, "saw cat more than once"),
            (
                "path,labels\na,cat; dog\n",
                {"labels": "labels", "classes": ["cat", "dog"]},
                "t.csv:2.*surrounding space",
            ),
            ("path,labels\na,x\nb,x\na,x\n", {"labels": "labels"}, r"t\.csv:4: .*'a', which t\.csv:2 has too"),
            ("path,labels\n a,x\n", {"labels": "labels"}, "without surrounding space, saw ' a'"),
            ("path,labels\n,x\n", {"labels": "labels"}, "expected a path in column path"),
            ("path,labels\na\n", {"labels": "labels"}, r"t\.csv:2: expected 2 values, saw 1"),
            ("path,labels\na,b,c\n", {"labels": "labels"}, r"t\.csv:2: expected 2 values, saw 3"),
            ('path,labels\na,"b\n', {"labels": "labels"}, "expected CSV"),
            ("path,labels\n", {"labels": "labels"}, "expected at least one image"),
            ("", {"labels": "labels"}, "expected the columns path, labels"),
            (b"path,labels\n\xff,x\n", {"labels": "labels"}, "expected UTF-8"),
            (LABELS, {"labels": "labels", "split_column": "split", "split": ["test"]}, "holds only train, val"),
            (
                "path,labels,split\na,x,val\nb,x,val \n",
                {"labels": "labels", "split_column": "split", "split": ["val"]},
                "expected a split without surrounding space, saw 'val '",
            ),
        ],
    )
    def test_refusals(self, tmp_path: Path, text: str | bytes, options: dict[str, Any], match: str) -> None:
        with pytest.raises(StagingError, match=match):
            read(tmp_path, text, **options)

    def test_refuses_absent_table(self, tmp_path: Path) -> None:
        with pytest.raises(StagingError, match=r"file not found: 't\.csv'; check dataset\.root"):
            read_dataset(TableDataset(format="table", root=tmp_path, table="t.csv", labels="labels"))
