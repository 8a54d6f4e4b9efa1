from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.dataset import VocDataset
from storage.readers import read_dataset
from storage.samples import MaskSource, StagingError
from storage.truth import read_truth


def xml(*names: str) -> str:
    objects = "".join(f"<object><name>{name}</name><part><name>head</name></part></object>" for name in names)
    return f"<annotation><filename>x</filename>{objects}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("ImageSets/Segmentation", "JPEGImages", "Annotations", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    for name, names in {"a": ("dog", "cat", "dog"), "b": ("cat",), "c": ()}.items():
        (tmp_path / "JPEGImages" / f"{name}.jpg").touch()
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml(*names))
    Image.fromarray(np.asarray([[0, 2, 255]], np.uint8)).save(tmp_path / "SegmentationClass" / "a.png")
    write_list(tmp_path, "train", "a\r\nb \r\n\r\n")
    write_list(tmp_path, "val", "c\n")
    return tmp_path


def write_list(root: Path, split: str, text: str) -> None:
    (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_bytes(text.encode())


def config(root: Path, **options: Any) -> VocDataset:
    return VocDataset(format="voc", root=root, **options)


class TestReadVoc:
    def test_smoke(self, root: Path) -> None:
        listing = read_dataset(config(root))
        assert listing.classes == ("cat", "dog")
        assert [(s.image_id, s.split, s.labels) for s in listing.samples] == [
            ("a", "train", ("cat", "dog")),
            ("b", "train", ("cat",)),
            ("c", "val", ()),
        ]
        assert listing.samples[0].path == "JPEGImages/a.jpg"
        assert listing.samples[0].source == "ImageSets/Segmentation/train.txt:1"
        assert listing.samples[0].mask == MaskSource("voc_auto", "SegmentationClass/a.png")
        assert listing.samples[1].mask is None

    @pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG"])
    def test_other_suffixes(self, root: Path, suffix: str) -> None:
        (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / f"a{suffix}")
        assert read_dataset(config(root)).samples[0].path == f"JPEGImages/a{suffix}"

    def test_image_that_is_not_there_is_listed(self, root: Path) -> None:
        (root / "JPEGImages" / "a.jpg").unlink()
        assert read_dataset(config(root)).samples[0].path == "JPEGImages/a.jpg"

    def test_names_in_another_unicode_form_are_found(self, root: Path) -> None:
        (root / "JPEGImages" / "cafe\u0301.jpg").touch()
        write_list(root, "train", "caf\u00e9\n")
        (root / "Annotations" / "caf\u00e9.xml").write_text(xml("cat"))
        assert read_dataset(config(root)).samples[0].path == "JPEGImages/cafe\u0301.jpg"

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_pairs_of_paths(self, root: Path, slash: str) -> None:
        write_list(root, "train_aug", f"{slash}JPEGImages/a.jpg {slash}SegmentationClassAug/a.png\n")
        sample = read_dataset(config(root, split=["train_aug"], palette="index")).samples[0]
        assert (sample.image_id, sample.path) == ("a", "JPEGImages/a.jpg")
        assert sample.mask == MaskSource("index", "SegmentationClassAug/a.png")

    def test_masks_can_be_left_out(self, root: Path) -> None:
        assert all(sample.mask is None for sample in read_dataset(config(root, masks=None)).samples)

    def test_labels_from_the_mask(self, root: Path) -> None:
        write_list(root, "train", "a\n")
        options = {"split": ["train"], "labels_from": "mask"}
        (sample,) = read_dataset(config(root, classes=["cat", "dog"], **options)).samples
        assert sample.labels == ("dog",)
        with pytest.raises(StagingError, match=r"dataset\.classes"):
            read_dataset(config(root, **options))
        write_list(root, "train", "b\n")
        with pytest.raises(StagingError, match="expected a mask to take the labels from"):
            read_dataset(config(root, classes=["cat", "dog"], **options))

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("a 1\nb -1\n", r"train\.txt:1: .*saw 'a 1'; this is a list of one class"),
            ("a b c\n", "saw 'a b c'$"),
            ("a.jpg\n", "without suffix"),
            ("a\nb\na\n", r"train\.txt:3: .* once, saw 'a', which .*train\.txt:1 has too"),
            ("a\u00a0\n", "without surrounding space"),
            ("nobody\n", r"train\.txt:1: no labels: .*Annotations/nobody\.xml"),
            ("../a\n", "expected a path below the data root"),
        ],
    )
    def test_refuses_lists(self, root: Path, text: str, match: str) -> None:
        write_list(root, "train", text)
        with pytest.raises(StagingError, match=match):
            read_dataset(config(root))

    def test_refuses_absent_list(self, root: Path) -> None:
        with pytest.raises(StagingError, match=r"file not found: 'ImageSets/Segmentation/test\.txt'"):
            read_dataset(config(root, split=["test"]))

    def test_refuses_an_id_in_two_splits(self, root: Path) -> None:
        write_list(root, "val", "a\n")
        with pytest.raises(StagingError, match=r"val\.txt:1: .*train\.txt:1"):
            read_dataset(config(root))

    def test_refuses_unknown_class(self, root: Path) -> None:
        (root / "Annotations" / "a.xml").write_text(xml("cat", "dog "))
        with pytest.raises(StagingError, match=r"train\.txt:1.*a\.xml: .* 'dog ', which differs .* surrounding space"):
            read_dataset(config(root, classes=["cat", "dog"]))

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_refuses_document_types(self, root: Path, encoding: str) -> None:
        bomb = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY e "ee">]>' + xml("&e;&e;")
        (root / "Annotations" / "a.xml").write_bytes(bomb.encode(encoding))
        with pytest.raises(StagingError, match=r"a\.xml: expected XML without a document type"):
            read_dataset(config(root))

    @pytest.mark.parametrize("text", ["", "<annotation>", "<annotation><object/></annotation>", "<!DOCTYPE html>"])
    def test_refuses_broken_xml(self, root: Path, text: str) -> None:
        (root / "Annotations" / "b.xml").write_text(text)
        with pytest.raises(StagingError, match=r"train\.txt:2: Annotations/b\.xml: "):
            read_dataset(config(root))


class TestRealData:
    def test_natural_voc(self, shared: Path) -> None:
        root = shared / "data" / "natural_voc"
        listing = read_dataset(config(root, lists="ImageSets/Main"))
        assert listing.classes == ("airplane", "face", "horse", "motorcycle")
        assert len(listing.samples) == 1771
        assert all(len(sample.labels) == 1 for sample in listing.samples)
        assert all((root / sample.path).exists() for sample in listing.samples)
        horse = next(sample for sample in listing.samples if sample.labels == ("horse",))
        with Image.open(root / horse.path) as image:
            size = (image.height, image.width)
        assert horse.mask is not None
        truth = read_truth(
            root,
            horse.mask,
            classes=listing.classes,
            labels=horse.labels,
            size=size,
            source=horse.source,
            max_pixels=10**7,
        )
        assert set(np.unique(truth)) <= {0, 3, 255}
