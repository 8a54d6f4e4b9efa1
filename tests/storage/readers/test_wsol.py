from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from configs import load_config
from configs.dataset import WsolDataset
from storage.boxes import BOXES, BoxStore, boxes_basis, boxes_digest, boxes_table, boxes_text
from storage.instance_files import mask_paths
from storage.readers import read_dataset
from storage.samples import Listing, StagingError
from storage.staged import mask_source
from storage.stages import stage_key
from storage.truth import read_truth
from storage.workspace import Workspace
from tests.storage.wsol_layout import SIZE, make_wsol, stage_wsol

PRESETS = {
    "cub200": ("CUB", ("train", "val", "test"), False),
    "openimages": ("OpenImages", ("train", "val", "test"), True),
    "imagenet": ("ILSVRC", ("val", "test"), False),
}
ID = "val/c0/no, 0.png"


def preset(name: str, root: Path, **options: Any) -> WsolDataset:
    dataset = load_config(f"preset:{name}", [f"dataset.root={root}"]).dataset
    assert isinstance(dataset, WsolDataset)
    return dataset.model_copy(update=options)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    make_wsol(tmp_path, "CUB")
    return tmp_path


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    make_wsol(tmp_path, "OpenImages", masks=True)
    return tmp_path


def edit(root: Path, file: str, old: str, new: str, name: str = "CUB") -> None:
    path = root / "metadata" / name / "val" / f"{file}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


class TestReadWsol:
    def test_smoke(self, birds: Path) -> None:
        listing = read_dataset(preset("cub200", birds))
        assert listing.classes == ("0", "1")
        assert len(listing.samples) == 12
        first, second = listing.samples[4:6]
        assert (first.image_id, first.path, first.split, first.labels) == (ID, f"dataset/CUB/{ID}", "val", ("0",))
        assert first.source == "metadata/CUB/val/image_ids.txt:1"
        assert first.mask is None
        assert first.boxes == boxes_text([(1, 4, 2, 20, 12)], SIZE)
        assert second.boxes == boxes_text([(1, 4, 2, 20, 12), (1, 30, 10, 40, 24)], SIZE)

    def test_masks(self, objects: Path) -> None:
        samples = read_dataset(preset("openimages", objects)).samples
        assert [one.mask for one in samples[:4]] == [None] * 4
        mask = samples[5].mask
        assert mask is not None
        folder = "dataset/OpenImages/val/c0"
        names = ["no 1_m0.png", "no 1_m1.png", "no 1_ignore.png"]
        assert mask_paths(mask) == [f"{folder}/{name}" for name in names]
        assert samples[5].boxes == ""

    def test_files_of_windows_and_without_places(self, birds: Path) -> None:
        for file in ("image_ids", "class_labels", "image_sizes"):
            path = birds / "metadata" / "CUB" / "val" / f"{file}.txt"
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
        (birds / "metadata" / "CUB" / "val" / "localization.txt").write_text("")
        samples = read_dataset(preset("cub200", birds, split=["val"])).samples
        assert [one.boxes for one in samples] == [""] * 4
        assert samples[0].image_id == ID

    def test_class_names(self, birds: Path) -> None:
        (birds / "names.txt").write_text("albatross\nwren\nnever shown")
        listing = read_dataset(preset("cub200", birds, class_names="names.txt"))
        assert listing.classes == ("albatross", "wren", "never shown")
        assert {one.labels for one in listing.samples} == {("albatross",), ("wren",)}

    @pytest.mark.parametrize(("names", "kept"), [(None, "1"), ("names.txt", "wren")])
    def test_classes_choose_a_part(self, birds: Path, names: str | None, kept: str) -> None:
        (birds / "names.txt").write_text("albatross\nwren")
        listing = read_dataset(preset("cub200", birds, class_names=names, classes=[kept]))
        assert listing.classes == (kept,)
        assert {one.image_id.split("/")[1] for one in listing.samples} == {"c1"}
        assert listing.samples[0].boxes.endswith('"boxes":[[1,4,2,20,12]]}')

    def test_a_thousand_classes(self, tmp_path: Path) -> None:
        make_wsol(tmp_path, "ILSVRC", ("val",), labels=2)
        edit(tmp_path, "class_labels", f"{ID},0", f"{ID},999", name="ILSVRC")
        listing = read_dataset(preset("imagenet", tmp_path, split=["val"]))
        assert len(listing.classes) == 1000
        assert listing.samples[0].labels == ("999",)
        assert listing.samples[0].boxes.endswith("[[1000,4,2,20,12]]}")

    @pytest.mark.parametrize(
        ("file", "old", "new", "match"),
        [
            (
                "class_labels",
                f"{ID},0\n",
                "",
                r"val/class_labels\.txt: expected a label for each of 4 ids, 1 have none",
            ),
            ("class_labels", ",0", "", r"class_labels\.txt:1: expected an id that image_ids\.txt has, saw 'val/c0/no'"),
            ("class_labels", f"{ID},0", "x", r"class_labels\.txt:1: expected id,label, saw 'x'"),
            (
                "class_labels",
                f"{ID},0",
                f"{ID},-1",
                r"class_labels\.txt:1: expected whole numbers of at least 0, saw '-1'",
            ),
            ("class_labels", f"{ID},0", f"{ID},1e3", r"class_labels\.txt:1: expected whole numbers .* saw '1e3'"),
            ("class_labels", f"{ID},0", f"{ID},1000", r"class_labels\.txt:1: expected a label 0 to 999, saw 1000"),
            ("class_labels", f"{ID},0", f"{ID},0\n{ID},1", r"txt:2: .*, which .*class_labels\.txt:1 has too"),
            ("class_labels", f"{ID},0", f"{ID},0\nother,1", r"class_labels\.txt:2: expected an id that .* saw 'other'"),
            ("image_ids", ID, f"{ID}\n{ID}", r"image_ids\.txt:2: expected every image id once"),
            ("image_ids", ID, f" {ID}", r"image_ids\.txt:1: expected an image id without surrounding space"),
            ("image_sizes", f"{ID},40,24\n", "", r"image_sizes\.txt: expected a size for each of 4 ids, 1 have none"),
            ("image_sizes", f"{ID},40,24", f"{ID},40,0", r"image_sizes\.txt:1: expected whole numbers of at least 1"),
            (
                "image_sizes",
                f"{ID},40,24",
                f"{ID},19,24",
                r"localization\.txt:1: .* image of 19 x 24, saw 4, 2, 20, 12",
            ),
            (
                "localization",
                f"{ID},4,2,20,12\n",
                "",
                r"localization\.txt: expected a box for each of 4 ids, 1 have none",
            ),
            ("localization", "4,2,20,12", "4,2,20", r"localization\.txt:1: expected an id that image_ids\.txt has"),
            ("localization", "4,2,20,12", "4,2,20,12.5", r"localization\.txt:1: expected whole numbers, saw .*12\.5"),
            ("localization", "4,2,20,12", "4,2,41,12", r"localization\.txt:1: .* image of 40 x 24, saw 4, 2, 41, 12"),
            ("localization", "4,2,20,12", "-1,2,20,12", r"localization\.txt:1: expected x0, y0, x1, y1"),
            ("localization", "4,2,20,12", "20,2,4,12", r"localization\.txt:1: expected x0, y0, x1, y1"),
        ],
    )
    def test_refusals(self, birds: Path, file: str, old: str, new: str, match: str) -> None:
        edit(birds, file, old, new)
        with pytest.raises(StagingError, match=match):
            read_dataset(preset("cub200", birds))

    @pytest.mark.parametrize("file", ["image_ids", "class_labels", "image_sizes", "localization"])
    def test_refuses_absent_file(self, birds: Path, file: str) -> None:
        (birds / "metadata" / "CUB" / "val" / f"{file}.txt").unlink()
        with pytest.raises(StagingError, match=rf"file not found: 'metadata/CUB/val/{file}\.txt'; check dataset\.root"):
            read_dataset(preset("cub200", birds))

    @pytest.mark.parametrize("options", [{"metadata": "../x/{split}"}, {"class_names": "/etc/hostname"}])
    def test_refuses_lists_outside_of_the_root(self, birds: Path, options: dict[str, str]) -> None:
        with pytest.raises(StagingError, match="expected a path below the data root"):
            read_dataset(preset("cub200", birds, **options))

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("a\n b", r"names\.txt:2: expected a class name without surrounding space, saw ' b'"),
            ("a\n\nb", r"names\.txt:2: .* saw ''"),
            ("a\nb\na", r"names\.txt:3: expected every name once, saw 'a', which line 1 has too"),
            ("a", r"class_labels\.txt:3: expected a label 0 to 0, saw 1"),
        ],
    )
    def test_refuses_names(self, birds: Path, text: str, match: str) -> None:
        (birds / "names.txt").write_text(text)
        with pytest.raises(StagingError, match=match):
            read_dataset(preset("cub200", birds, class_names="names.txt"))

    def test_refuses_unknown_class(self, birds: Path) -> None:
        with pytest.raises(
            StagingError, match=r"dataset\.classes: expected some of the 2 names .*\(0, 1, \.\.\.\), saw 2"
        ):
            read_dataset(preset("cub200", birds, classes=["1", "2"]))

    def test_refuses_more_classes_than_a_mask_can_hold(self, objects: Path) -> None:
        edit(objects, "class_labels", f"{ID},0", f"{ID},254", name="OpenImages")
        with pytest.raises(StagingError, match="expected 1 to 254 classes, the data set has 255"):
            read_dataset(preset("openimages", objects))
        names = [str(label) for label in range(255)]
        with pytest.raises(ValidationError, match="expected at most 254 where there are masks, saw 255"):
            WsolDataset(format="wsol", root=objects, masks="masks", classes=names)

    @pytest.mark.parametrize(
        ("old", "new", "match"),
        [
            (f"{ID},val/c0/no 0_m0.png", f"{ID},", r"localization\.txt:1: expected the path of a mask, saw none"),
            ("val/c0/no 0_m0.png,val", "val", r"localization\.txt:1: expected an id that image_ids\.txt has"),
        ],
    )
    def test_refuses_mask_lines(self, objects: Path, old: str, new: str, match: str) -> None:
        edit(objects, "localization", old, new, name="OpenImages")
        with pytest.raises(StagingError, match=match):
            read_dataset(preset("openimages", objects))


class TestStaging:
    """The presets on small data sets in their layout."""

    @pytest.mark.parametrize("name", sorted(PRESETS))
    def test_presets_stage(self, tmp_path: Path, workspace: Workspace, name: str) -> None:
        folder, splits, masks = PRESETS[name]
        make_wsol(tmp_path, folder, splits, masks=masks)
        index, sources = stage_wsol(preset(name, tmp_path), workspace)
        assert len(index) == 4 * len(splits)
        assert index.ok.all()
        assert sorted(set(index.splits)) == sorted(splits)
        assert bool(boxes_digest(sources)) == (not masks)

    def test_boxes_are_a_stage(self, birds: Path, workspace: Workspace) -> None:
        index, sources = stage_wsol(preset("cub200", birds), workspace)
        basis = boxes_basis(index, boxes_digest(sources), 5)
        folder = workspace.stage(BOXES, stage_key(BOXES, basis))
        shards = index.shards(5)
        folder.begin(basis, shards=len(shards), classes=index.classes)
        for shard in shards:
            folder.write(shard.number, tables={BOXES: boxes_table(index, sources, index.working_rows(shard))})
        store = BoxStore(folder, index)
        assert store.rows() == list(range(12))
        row = index.ids.index("val/c1/no, 1.png")
        assert store.boxes(row).tolist() == [[4, 2, 20, 12], [30, 10, 40, 24]]
        assert store.class_ids(row).tolist() == [2, 2]

    def test_a_changed_box_changes_only_the_boxes(self, birds: Path, tmp_path: Path) -> None:
        config = preset("cub200", birds)
        index, sources = stage_wsol(config, Workspace(tmp_path / "a"))
        edit(birds, "localization", "4,2,20,12", "4,2,21,12")
        again, changed = stage_wsol(config, Workspace(tmp_path / "b"))
        assert again.key == index.key
        assert boxes_digest(changed) != boxes_digest(sources)

    def test_quarantined_images_have_no_boxes(self, birds: Path, workspace: Workspace) -> None:
        (birds / "dataset" / "CUB" / ID).unlink()
        edit(birds, "image_ids", "val/c1/no, 1.png", "../../../x.png")
        for file in ("class_labels", "image_sizes", "localization"):
            path = birds / "metadata" / "CUB" / "val" / f"{file}.txt"
            path.write_text(path.read_text().replace("val/c1/no, 1.png", "../../../x.png"))
        index, sources = stage_wsol(preset("cub200", birds), workspace)
        reasons = dict(zip(index.ids, index.table.column("reason").to_pylist(), strict=True))
        assert reasons[ID].startswith("file not found")
        assert reasons["../../../x.png"].startswith("expected a path below the data root")
        rows = [row for shard in index.shards(100) for row in index.working_rows(shard)]
        assert len(set(boxes_table(index, sources, rows).column("row").to_pylist())) == 10

    def test_refuses_a_size_that_is_not_the_files(self, birds: Path, workspace: Workspace) -> None:
        edit(birds, "image_sizes", f"{ID},40,24", f"{ID},80,48")
        index, sources = stage_wsol(preset("cub200", birds), workspace)
        with pytest.raises(StagingError, match=r"val/image_ids\.txt:1: expected boxes for .* 40 x 24, .* say 80 x 48"):
            boxes_table(index, sources, range(len(index)))

    def test_instances_lie_over_what_is_ignored(self, objects: Path, workspace: Workspace) -> None:
        config = preset("openimages", objects)
        index, sources = stage_wsol(config, workspace)
        row = index.ids.index("val/c1/no, 1.png")
        mask = mask_source(sources.slice(row, 1).to_pylist()[0])
        assert mask is not None
        truth = read_truth(
            objects, mask, classes=index.classes, labels=("1",), size=SIZE, source="", max_pixels=config.max_pixels
        )
        expected = np.zeros(SIZE, np.uint8)
        expected[:10, :28] = 255
        expected[2:10, 4:20] = expected[14:22, 4:20] = 2
        np.testing.assert_array_equal(truth, expected)

    def test_every_file_of_a_mask_counts(self, objects: Path, tmp_path: Path) -> None:
        config = preset("openimages", objects)
        found = []
        for number in range(3):
            index, sources = stage_wsol(config, Workspace(tmp_path / f"ws{number}"))
            found.append(sources.column("mask_sha256").to_pylist()[index.ids.index("val/c0/no, 1.png")])
            Image.new("1", (20, 12)).save(
                objects / "dataset" / "OpenImages" / "val" / "c0" / f"no 1_{'m1' if number else 'ignore'}.png"
            )
        assert len(set(found)) == 3

    @pytest.mark.parametrize(("path", "match"), [("../m.png", "below the data root"), ("gone.png", "file not found")])
    def test_refuses_masks_that_are_not_there(self, objects: Path, workspace: Workspace, path: str, match: str) -> None:
        edit(objects, "localization", "val/c0/no 0_m0.png", f"../../{path}" if "/" in path else path, name="OpenImages")
        with pytest.raises(StagingError, match=rf"val/image_ids\.txt:1: mask .*{path}: .*{match}"):
            stage_wsol(preset("openimages", objects), workspace)


def test_listing_is_in_the_order_of_the_lists(birds: Path) -> None:
    listing: Listing = read_dataset(preset("cub200", birds, split=["test", "train"]))
    assert [one.split for one in listing.samples] == ["test"] * 4 + ["train"] * 4
