from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.dataset import Ksdd2Dataset
from storage.readers import read_dataset
from storage.samples import MaskSource, StagingError


def save(path: Path, value: int, **options: str) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((6, 4), value, np.uint8)).save(path, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in {"train/10001": 255, "train/10000": 0, "test/20000": 255}.items():
        save(tmp_path / f"{name}.png", 90)
        save(tmp_path / f"{name}_GT.png", value)
    save(tmp_path / "train" / "10000_GT (copy).png", 0)
    save(tmp_path / "train" / "10000 (copy).png", 0)
    (tmp_path / "train" / ".hidden.png").touch()
    (tmp_path / "train" / "notes.txt").touch()
    return tmp_path


class TestReadKsdd2:
    def test_smoke(self, root: Path) -> None:
        listing = read_dataset(Ksdd2Dataset(format="ksdd2", root=root))
        assert listing.classes == ("defect",)
        assert [(s.image_id, s.split, s.labels) for s in listing.samples] == [
            ("train/10000", "train", ()),
            ("train/10001", "train", ("defect",)),
            ("test/20000", "test", ("defect",)),
        ]
        assert listing.samples[1].path == "train/10001.png"
        assert listing.samples[1].mask == MaskSource("binary", "train/10001_GT.png")

    def test_class_may_have_another_name(self, root: Path) -> None:
        listing = read_dataset(Ksdd2Dataset(format="ksdd2", root=root, classes=["scratch"]))
        assert listing.samples[1].labels == listing.classes == ("scratch",)

    def test_upper_case_suffix(self, root: Path) -> None:
        (root / "train" / "10000.png").rename(root / "train" / "10000.PNG")
        assert read_dataset(Ksdd2Dataset(format="ksdd2", root=root)).samples[0].path == "train/10000.PNG"

    def test_image_that_is_not_there_is_listed(self, root: Path) -> None:
        (root / "train" / "10000.png").unlink()
        assert read_dataset(Ksdd2Dataset(format="ksdd2", root=root)).samples[0].path == "train/10000.png"

    def test_refuses_several_classes(self, root: Path) -> None:
        with pytest.raises(StagingError, match="expected one class for format ksdd2, saw a, b"):
            read_dataset(Ksdd2Dataset(format="ksdd2", root=root, classes=["a", "b"]))

    def test_refuses_absent_split(self, root: Path) -> None:
        with pytest.raises(StagingError, match="folder of split 'val'"):
            read_dataset(Ksdd2Dataset(format="ksdd2", root=root, split=["val"]))

    @pytest.mark.parametrize("damage", ["absent", "cut"])
    def test_refuses_masks_that_tell_nothing(self, root: Path, damage: str) -> None:
        mask = root / "train" / "10001_GT.png"
        data = mask.read_bytes()
        mask.unlink()
        if damage == "cut":
            mask.write_bytes(data[:-20])
        with pytest.raises(StagingError, match=r"train/10001\.png: mask train/10001_GT\.png: "):
            read_dataset(Ksdd2Dataset(format="ksdd2", root=root))
