import os
from pathlib import Path
from typing import Any

import pytest

from configs.dataset import FolderDataset
from storage.readers import read_dataset
from storage.samples import Listing, MaskSource, StagingError

NFD, NFC = "cafe\u0301.jpg", "caf\u00e9.jpg"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(root: Path, **options: Any) -> Listing:
    return read_dataset(FolderDataset(format="folder", root=root, **options))


class TestReadFolder:
    def test_smoke(self, tmp_path: Path) -> None:
        touch(tmp_path, "dog/2.JPG", "dog/1.png", "cat/1.png", "cat/.hidden.png", ".git/x.png", "cat/Thumbs.db")
        listing = read(tmp_path)
        assert listing.classes == ("cat", "dog")
        assert [(s.image_id, s.path, s.split, s.labels) for s in listing.samples] == [
            ("cat/1.png", "cat/1.png", "all", ("cat",)),
            ("dog/1.png", "dog/1.png", "all", ("dog",)),
            ("dog/2.JPG", "dog/2.JPG", "all", ("dog",)),
        ]

    def test_splits(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/dog/1.png", "README.txt")
        listing = read(tmp_path, split=["val", "train"])
        assert [(s.image_id, s.split) for s in listing.samples] == [
            ("val/dog/1.png", "val"),
            ("train/cat/1.png", "train"),
            ("train/dog/1.png", "train"),
        ]
        assert listing.classes == ("cat", "dog")

    def test_unlabelled(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/good/1.png", "train/scratch/1.png")
        listing = read(tmp_path, split=["train"], unlabelled=["good"])
        assert listing.classes == ("scratch",)
        assert [sample.labels for sample in listing.samples] == [(), ("scratch",)]

    @pytest.mark.parametrize("kind", ["index", "binary"])
    def test_masks(self, tmp_path: Path, kind: str) -> None:
        touch(tmp_path, "cat/1.jpg", "cat/2.jpg", "masks/cat/1.PNG")
        listing = read(tmp_path, masks="masks", mask_values=kind)
        assert listing.classes == ("cat",)
        assert [sample.mask for sample in listing.samples] == [MaskSource(kind, "masks/cat/1.PNG"), None]  # type: ignore[arg-type]

    def test_files_that_are_no_images_are_listed_as_refused(self, tmp_path: Path) -> None:
        touch(tmp_path, "cat/1.png", "cat/notes.txt", "cat/none")
        refused = {sample.image_id: sample.refused for sample in read(tmp_path).samples}
        assert refused == {
            "cat/1.png": "",
            "cat/none": "expected the suffix of an image, saw ''",
            "cat/notes.txt": "expected the suffix of an image, saw '.txt'",
        }

    def test_unicode_twins(self, tmp_path: Path) -> None:
        touch(tmp_path, f"cat/{NFD}", f"cat/{NFC}")
        first, second = read(tmp_path).samples
        assert (first.image_id, first.path, first.refused) == (f"cat/{NFC}", f"cat/{NFC}", "")
        assert (second.image_id, second.path) == (f"cat/{NFC} (2)", f"cat/{NFD}")
        assert "same name in a different Unicode form" in second.refused

    def test_one_name_in_another_form_is_fine(self, tmp_path: Path) -> None:
        touch(tmp_path, f"cat/{NFD}")
        (sample,) = read(tmp_path).samples
        assert (sample.image_id, sample.path, sample.refused) == (f"cat/{NFC}", f"cat/{NFD}", "")

    @pytest.mark.parametrize("name", [b"a\nb.png", b"a\xffb.png", b"a\x1bb.png"])
    def test_names_that_are_no_text_are_refused(self, tmp_path: Path, name: bytes) -> None:
        touch(tmp_path, "cat/1.png", f"cat/{os.fsdecode(name)}")
        sample = read(tmp_path).samples[-1]
        assert sample.refused == "the file name holds control characters or is not UTF-8"
        assert sample.image_id.isprintable()
        sample.path.encode()

    @pytest.mark.parametrize(
        "name", ["a b.png", "'q\".png", "-rf.png", "\U0001f600.png", "x" * 240 + ".png", "ünï.png"]
    )
    def test_odd_names_are_kept(self, tmp_path: Path, name: str) -> None:
        touch(tmp_path, f"cat/{name}")
        (sample,) = read(tmp_path).samples
        assert (sample.path, sample.refused) == (f"cat/{name}", "")

    @pytest.mark.parametrize(
        ("names", "options", "match"),
        [
            ([], {}, "expected one folder for each class"),
            (["cat/1.png"], {"split": ["train"]}, "expected a folder, found none; check"),
            (["cat/1.png", "1.png"], {}, r"saw the image '1\.png' beside them"),
            (["train/cat/1.png"], {}, "saw the folder 'cat'; where splits come before classes"),
            (["cat/1.png", "dog/1.png"], {"classes": ["cat"]}, r"folder dog: expected one of dataset\.classes"),
            (["cat /1.png"], {"classes": ["cat"]}, "surrounding space"),
            (["cat/.x"], {}, "expected at least one image"),
        ],
    )
    def test_refusals(self, tmp_path: Path, names: list[str], options: dict[str, Any], match: str) -> None:
        touch(tmp_path, *names)
        with pytest.raises(StagingError, match=match):
            read(tmp_path, **options)

    def test_refuses_absent_root(self, tmp_path: Path) -> None:
        with pytest.raises(StagingError, match=r"dataset\.root: expected a folder"):
            read(tmp_path / "absent")
