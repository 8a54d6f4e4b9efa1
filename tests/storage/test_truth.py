from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.exporters.palette import voc_palette
from storage.instance_files import files_mask
from storage.instances import instances_text
from storage.samples import MaskKind, MaskSource, StagingError
from storage.truth import localization_truth, mask_digest, read_class_ids, read_truth

IDS = np.asarray([[0, 1, 2, 3], [255, 0, 0, 2]], np.uint8)
CLASSES = ("cat", "dog", "owl")


def save(root: Path, values: Any, mode: str | None = None, **options: Any) -> None:
    image = Image.fromarray(np.asarray(values))
    if mode == "P":
        image.putpalette(voc_palette().tobytes())
    elif mode:
        image = image.convert(mode)
    image.save(root / "m.png", **options)


def read(
    root: Path,
    kind: MaskKind,
    labels: tuple[str, ...] = ("dog",),
    size: tuple[int, int] = (2, 4),
    classes: tuple[str, ...] = CLASSES,
) -> np.ndarray:
    source = MaskSource(kind=kind, path="m.png")
    return read_truth(root, source, classes=classes, labels=labels, size=size, source="list.txt:3", max_pixels=1000)


class TestIndex:
    @pytest.mark.parametrize("mode", ["L", "P"])
    @pytest.mark.parametrize("kind", ["index", "voc_auto"])
    def test_smoke(self, tmp_path: Path, mode: str, kind: MaskKind) -> None:
        save(tmp_path, IDS, mode)
        truth = read(tmp_path, kind)
        assert truth.dtype == np.uint8
        np.testing.assert_array_equal(truth, IDS)

    def test_palette_colours_do_not_matter(self, tmp_path: Path) -> None:
        image = Image.fromarray(IDS)
        image.putpalette(bytes(range(255, -1, -1)) * 3)
        image.save(tmp_path / "m.png", transparency=0)
        np.testing.assert_array_equal(read(tmp_path, "index"), IDS)

    def test_wide_and_one_bit_values(self, tmp_path: Path) -> None:
        save(tmp_path, IDS.astype(np.uint16))
        np.testing.assert_array_equal(read(tmp_path, "index"), IDS)
        save(tmp_path, IDS == 1)
        assert read(tmp_path, "index").tolist() == (IDS == 1).astype(int).tolist()

    def test_orientation_of_the_mask_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x112] = 6
        save(tmp_path, IDS, exif=exif)
        np.testing.assert_array_equal(read(tmp_path, "index", size=(4, 2)), np.rot90(IDS, -1))

    def test_refuses_value_without_class(self, tmp_path: Path) -> None:
        save(tmp_path, IDS)
        with pytest.raises(StagingError, match=r"list\.txt:3: mask m\.png: expected 0, class ids 1\.\.2 or 255, saw 3"):
            read(tmp_path, "index", classes=("cat", "dog"))

    def test_refuses_what_looks_binary(self, tmp_path: Path) -> None:
        save(tmp_path, np.where(IDS == 1, 255, 0).astype(np.uint8))
        with pytest.raises(StagingError, match=r"set dataset\.mask_values: binary"):
            read(tmp_path, "index")
        assert set(np.unique(read(tmp_path, "index", labels=()))) == {0, 255}
        assert set(np.unique(read(tmp_path, "voc_auto"))) == {0, 255}

    def test_refuses_colours(self, tmp_path: Path) -> None:
        save(tmp_path, voc_palette()[IDS])
        with pytest.raises(StagingError, match=r"saw mode RGB; masks in VOC colours need .* palette: rgb"):
            read(tmp_path, "index")

    def test_refuses_another_size(self, tmp_path: Path) -> None:
        save(tmp_path, IDS)
        with pytest.raises(StagingError, match=r"list\.txt:3: mask m\.png: expected .* size 2 x 4, saw 4 x 2"):
            read(tmp_path, "index", size=(4, 2))

    @pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n"])
    def test_refuses_unreadable(self, tmp_path: Path, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / "m.png").write_bytes(content)
        with pytest.raises(StagingError, match=r"list\.txt:3: mask m\.png: (file not found|not an image)"):
            read(tmp_path, "index")


class TestBinary:
    GREY = np.asarray([[0, 127, 128, 255]], np.uint8)

    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
    def test_smoke(self, tmp_path: Path, mode: str) -> None:
        save(
            tmp_path,
            self.GREY.astype(np.uint16) * 257 if mode == "I;16" else self.GREY,
            None if mode == "I;16" else mode,
        )
        assert read(tmp_path, "binary", size=(1, 4)).tolist() == [[0, 0, 2, 2]]

    def test_one_bit(self, tmp_path: Path) -> None:
        save(tmp_path, self.GREY > 127)
        assert read(tmp_path, "binary", size=(1, 4)).tolist() == [[0, 0, 2, 2]]

    def test_colour_counts_as_object(self, tmp_path: Path) -> None:
        save(tmp_path, np.asarray([[[255, 0, 0], [0, 0, 0]]], np.uint8))
        assert read(tmp_path, "binary", size=(1, 2)).tolist() == [[2, 0]]

    def test_empty_masks_are_fine(self, tmp_path: Path) -> None:
        save(tmp_path, np.zeros((2, 4), np.uint8))
        assert not read(tmp_path, "binary").any()
        assert not read(tmp_path, "binary", labels=()).any()

    def test_refuses_several_labels(self, tmp_path: Path) -> None:
        save(tmp_path, self.GREY)
        with pytest.raises(StagingError, match=r"cannot tell 2 labels apart \(cat, owl\)"):
            read(tmp_path, "binary", labels=("cat", "owl"))

    def test_refuses_object_without_label(self, tmp_path: Path) -> None:
        save(tmp_path, self.GREY)
        with pytest.raises(StagingError, match="image without a label, saw 2 object pixels"):
            read(tmp_path, "binary", labels=())

    def test_refuses_what_looks_like_ids(self, tmp_path: Path) -> None:
        save(tmp_path, np.asarray([[0, 1]], np.uint8))
        with pytest.raises(StagingError, match=r"saw only 0 and 1; set dataset\.mask_values: index"):
            read(tmp_path, "binary", size=(1, 2))

    def test_labels_may_come_from_the_mask(self, tmp_path: Path) -> None:
        save(tmp_path, self.GREY)
        mask = MaskSource(kind="binary", path="m.png")
        ids = read_class_ids(tmp_path, mask, classes=("defect",), labels=None, source="", max_pixels=9)
        assert ids.tolist() == [[0, 0, 1, 1]]


class TestVocColours:
    @pytest.mark.parametrize("kind", ["voc_rgb", "voc_auto"])
    def test_smoke(self, tmp_path: Path, kind: MaskKind) -> None:
        save(tmp_path, voc_palette()[IDS])
        np.testing.assert_array_equal(read(tmp_path, kind), IDS)

    def test_all_colours(self, tmp_path: Path) -> None:
        ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
        save(tmp_path, voc_palette()[ids])
        classes = tuple(f"c{k}" for k in range(254))
        np.testing.assert_array_equal(read(tmp_path, "voc_rgb", labels=(), size=(16, 16), classes=classes), ids)

    def test_border_is_ignore(self, tmp_path: Path) -> None:
        save(tmp_path, np.full((2, 4, 3), (224, 224, 192), np.uint8))
        assert (read(tmp_path, "voc_rgb") == 255).all()

    def test_refuses_other_colours(self, tmp_path: Path) -> None:
        colours = voc_palette()[IDS]
        colours[1, 2] = (1, 2, 3)
        save(tmp_path, colours)
        with pytest.raises(StagingError, match=r"saw \(1, 2, 3\) at x=2, y=1 \(1 pixels"):
            read(tmp_path, "voc_rgb")

    def test_refuses_colour_without_class(self, tmp_path: Path) -> None:
        save(tmp_path, voc_palette()[IDS])
        with pytest.raises(StagingError, match=r"ids 0\.\.2 or 255, saw the colour of id 3"):
            read(tmp_path, "voc_rgb", classes=("cat", "dog"))


class TestCoco:
    def test_smoke(self, tmp_path: Path) -> None:
        text = instances_text([(2, [[0, 0, 2, 0, 2, 2, 0, 2]])], (2, 4))
        mask = MaskSource(kind="coco", text=text)
        truth = read_truth(tmp_path, mask, classes=CLASSES, labels=("dog",), size=(2, 4), source="", max_pixels=9)
        assert truth.tolist() == [[2, 2, 0, 0], [2, 2, 0, 0]]


class TestFiles:
    def read(self, root: Path, labels: tuple[str, ...]) -> np.ndarray:
        save(root, np.asarray([[0, 255, 0, 255]], np.uint8))
        source = files_mask(["m.png"])
        return read_truth(root, source, classes=CLASSES, labels=labels, size=(1, 4), source="l:3", max_pixels=9)

    def test_smoke(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, ("owl",)).tolist() == [[0, 3, 0, 3]]

    @pytest.mark.parametrize("labels", [(), ("cat", "dog")])
    def test_refuses_other_than_one_label(self, tmp_path: Path, labels: tuple[str, ...]) -> None:
        with pytest.raises(StagingError, match="l:3: expected one label for masks without classes, saw"):
            self.read(tmp_path, labels)


class TestLocalizationTruth:
    def test_smoke(self) -> None:
        truth = localization_truth(IDS, side=4)
        assert truth.dtype == np.uint8
        assert truth.tolist() == [[0, 1, 1, 1]] * 2 + [[255, 0, 0, 1]] * 2

    def test_default_is_the_published_size(self) -> None:
        assert localization_truth(IDS).shape == (224, 224)


class TestMaskDigest:
    def test_follows_content_and_kind(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(name.encode())
        masks = [MaskSource("index", "a"), MaskSource("index", "b"), files_mask(["a"]), files_mask([], ["a"])]
        masks += [files_mask(["a", "b"]), MaskSource("coco", text="[]")]
        assert len({mask_digest(tmp_path, mask, "") for mask in masks}) == len(masks)

    @pytest.mark.parametrize("mask", [MaskSource("index", "gone"), files_mask(["gone"])])
    def test_refuses_absent_files(self, tmp_path: Path, mask: MaskSource) -> None:
        with pytest.raises(StagingError, match="l:3: mask gone: file not found"):
            mask_digest(tmp_path, mask, "l:3")
