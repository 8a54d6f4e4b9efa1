from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from configs import RunConfig
from configs.dataset import FolderDataset
from flows.stage import list_dataset
from storage import keys
from storage.index import ImageIndex
from storage.samples import StagingError
from storage.staged import count_leaks
from storage.stages import StageFolder
from storage.workspace import Workspace
from tasks.context import Run
from tasks.stage import InspectWork, finish_staging


def picture(seed: int) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((40, 40), Image.Resampling.BICUBIC)


def stage(root: Path, workspace: Path) -> tuple[StageFolder, ImageIndex]:
    config = RunConfig(dataset=FolderDataset(format="folder", root=root, split=["train", "val"]))
    run = Run(config, Workspace(workspace))
    listing, stamps, basis = list_dataset(run)
    folder = keys.stage_folder(run.workspace, "stage", basis)
    folder.begin(basis, shards=1, classes=listing.classes)
    work = InspectWork(run, folder, listing, stamps)
    for shard in work.missing():
        work(shard)
    return folder, finish_staging(run, folder, listing.classes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for split in ("train", "val"):
        (root / split / "cat").mkdir(parents=True)
    for name, seed in (("train/cat/a", 1), ("train/cat/b", 2), ("val/cat/other", 3)):
        picture(seed).save(root / f"{name}.png")
    (root / "train/cat/aa_broken.png").write_bytes(b"no picture")
    return root


class TestFinishStaging:
    def test_smoke(self, root: Path, tmp_path: Path) -> None:
        folder, index = stage(root, tmp_path / "ws")
        assert index.ids == ["train/cat/a.png", "train/cat/aa_broken.png", "train/cat/b.png", "val/cat/other.png"]
        assert index.ok.tolist() == [True, False, True, True]
        assert count_leaks(folder) == 0

    def test_look_alikes_in_two_splits_are_told(self, root: Path, tmp_path: Path) -> None:
        picture(2).transpose(Image.Transpose.ROTATE_90).save(root / "val/cat/turned.png")
        (root / "val/cat/same.png").write_bytes((root / "train/cat/a.png").read_bytes())
        folder, _ = stage(root, tmp_path / "ws")
        leaks = pq.ParquetFile(folder.folder / "leaks.parquet").read().to_pylist()
        found = {(one["image_id"], one["other_id"], one["exact"], one["orientation"] != 0) for one in leaks}
        assert found == {
            ("train/cat/a.png", "val/cat/same.png", True, False),
            ("train/cat/b.png", "val/cat/turned.png", False, True),
        }

    def test_refuses_a_data_set_without_a_usable_image(self, root: Path, tmp_path: Path) -> None:
        for path in root.rglob("*.png"):
            path.write_bytes(b"no picture")
        with pytest.raises(StagingError, match="none of 4 images can be used"):
            stage(root, tmp_path / "ws")
