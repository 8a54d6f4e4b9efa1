from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from storage.files import file_digest
from storage.index import ImageIndex
from storage.indexed_images import ChangedImageError
from storage.labels import LabelStore, MaskDataset, label_specs, open_labels, to_canvas
from storage.stages import StageError, StageFolder
from storage.workspace import Workspace, WorkspaceError

SIZES = [(30, 40), (20, 50), None, (25, 25), (10, 60)]
LARGE = [(513, 20), (100, 90), (20, 600), (513, 30), (128, 128), (90, 30)]
Make = Callable[..., ImageIndex]
Write = Callable[..., StageFolder]


@pytest.fixture
def store(workspace: Workspace, index_of_sizes: Make, write_labels: Write) -> LabelStore:
    index = index_of_sizes(SIZES)
    return LabelStore(write_labels(workspace, index, 2), index)


class TestLabelSpecs:
    def test_one_canvas(self, index_of_sizes: Make) -> None:
        label, confidence = label_specs(index_of_sizes(SIZES), 2)
        assert (label.name, label.shape, label.shard_rows, label.dtype) == ("label", (5, 30, 60), 2, "uint8")
        assert (label.fill, confidence.fill) == (255, 0)

    def test_one_array_per_canvas(self, index_of_sizes: Make) -> None:
        specs = label_specs(index_of_sizes(LARGE), 2, names=("label",))
        assert {spec.name: spec.rows for spec in specs} == {
            "label-128x128": 3,
            "label-128x640": 1,
            "label-640x128": 2,
        }


class TestToCanvas:
    def test_smoke(self, index_of_sizes: Make) -> None:
        shard = index_of_sizes(SIZES).shards(2)[1]
        canvas = to_canvas({3: np.full((25, 25), 7, np.uint8)}, shard, 255)
        assert canvas.shape == (2, 30, 60)
        assert (canvas[0] == 255).all()
        assert (canvas[1, :25, :25] == 7).all()
        assert (canvas[1] == 7).sum() == 25 * 25


class TestLabelStore:
    def test_smoke(self, store: LabelStore) -> None:
        assert store.classes == ("cat", "dog")
        assert store.rows() == [0, 1, 2, 3, 4]
        assert [shard.number for shard in (store.shard_of(row) for row in range(5))] == [0, 0, 1, 1, 2]

    @pytest.mark.parametrize("sizes", [SIZES, LARGE])
    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_masks_are_cropped_to_their_image(
        self, workspace: Workspace, index_of_sizes: Make, write_labels: Write, sizes: list, size: int
    ) -> None:
        index = index_of_sizes(sizes)
        store = LabelStore(write_labels(workspace, index, size), index)
        for row in np.flatnonzero(index.ok):
            assert store.mask(row).shape == index.sizes[row]
            assert (store.mask(row) == row).all()
            assert (store.mask(row, "confidence") == 100 + row).all()

    def test_margins_and_quarantined_rows_are_ignore(self, store: LabelStore) -> None:
        masks = store.shard_masks(store.shard_of(2))
        assert (masks[0] == 255).all()
        assert (masks[1, 25:] == 255).all()
        assert (masks[1, :, 25:] == 255).all()
        assert store.mask(2).shape == (0, 0)

    def test_iteration_skips_quarantined_and_uncommitted_rows(self, store: LabelStore) -> None:
        assert [(row, mask.shape) for row, mask in store] == [
            (0, (30, 40)),
            (1, (20, 50)),
            (3, (25, 25)),
            (4, (10, 60)),
        ]
        assert all((mask == row).all() for row, mask in store)
        store.folder.log.withdraw("00000")
        assert [row for row, _ in store] == [3, 4]
        assert store.rows() == [2, 3, 4]

    def test_refuses_rows_without_a_record(self, store: LabelStore) -> None:
        store.folder.log.withdraw("00001")
        with pytest.raises(StageError, match="shard 1 has no commit record"):
            store.mask(3)
        assert store.mask(4).shape == (10, 60)

    @pytest.mark.parametrize("row", [-5, -1, 5])
    def test_refuses_rows_that_are_not_there(self, store: LabelStore, row: int) -> None:
        with pytest.raises(IndexError, match=f"expected a row 0 to 4, saw {row}"):
            store.mask(row)


class TestOpenLabels:
    def test_first_of_the_last_run(self, store: LabelStore, workspace: Workspace) -> None:
        workspace.write_run({"labels": [store.folder.name, "mask-other"]})
        opened = open_labels(workspace)
        assert opened.folder.name == store.folder.name
        assert opened.index.key == store.index.key
        assert np.array_equal(opened.mask(3), store.mask(3))

    def test_a_later_index_does_not_matter(self, store: LabelStore, workspace: Workspace, index_of_sizes: Make) -> None:
        workspace.index_path.write_bytes(index_of_sizes([(9, 9)]).to_bytes())
        assert len(open_labels(workspace, store.folder).index) == 5

    def test_refuses_an_empty_folder(self, workspace: Workspace) -> None:
        with pytest.raises(WorkspaceError, match="is this a workspace"):
            open_labels(workspace)


class TestMaskDataset:
    @pytest.fixture
    def data(self, workspace: Workspace, index_of_sizes: Make, write_labels: Write, tmp_path: Path) -> MaskDataset:
        sizes = [(6, 8), (6, 8), None, (6, 8), (6, 8)]
        paths = index_of_sizes(sizes).paths
        (tmp_path / "data" / "images").mkdir(parents=True)
        for row, path in enumerate(paths):
            pixels = np.full((6, 8, 3), (10 * row, 20, 30), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / path)
        index = index_of_sizes(sizes, sha256=[file_digest(tmp_path / "data" / path) for path in paths])
        return MaskDataset(LabelStore(write_labels(workspace, index, 2), index), tmp_path / "data")

    def test_smoke(self, data: MaskDataset) -> None:
        assert len(data) == 4
        image, mask = data[2]
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((3, 6, 8), torch.uint8, (6, 8), torch.uint8)
        assert image[:, 0, 0].tolist() == [30, 20, 30]
        assert (mask == 3).all()

    def test_loader(self, data: MaskDataset) -> None:
        batches = list(DataLoader(data, batch_size=3, num_workers=0))
        assert [images.shape for images, _ in batches] == [(3, 3, 6, 8), (1, 3, 6, 8)]
        found = {
            int(image[0, 0, 0]): int(mask[0, 0]) for images, masks in batches for image, mask in zip(images, masks)
        }
        assert found == {0: 0, 10: 1, 30: 3, 40: 4}

    def test_refuses_an_image_that_changed(self, data: MaskDataset) -> None:
        Image.new("RGB", (8, 6)).save(data.root / data.store.index.paths[1])
        with pytest.raises(ChangedImageError, match="changed since it was staged"):
            data[1]

    def test_splits_and_transform(self, data: MaskDataset) -> None:
        chosen = MaskDataset(data.store, data.root, splits=["val"], transform=lambda *pair: int(pair[1].max()))
        assert [chosen[item] for item in range(len(chosen))] == [1, 3]
