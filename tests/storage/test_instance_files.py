from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.instance_files import draw_files, files_mask, mask_paths, nearest
from storage.samples import MaskSource, StagingError
from storage.truth import localization_truth

LEFT = np.asarray([[1, 0, 0, 0], [1, 0, 0, 0]], np.uint8)
TOP = np.asarray([[1, 1, 1, 0], [0, 0, 0, 0]], np.uint8)


def draw(root: Path, mask: MaskSource, size: tuple[int, int] = (2, 4)) -> np.ndarray:
    return draw_files(root, mask, size, class_id=7, source="l.txt:3", max_pixels=10**7)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.fromarray(LEFT * 255).save(tmp_path / "left.png")
    Image.fromarray(TOP).save(tmp_path / "top.png")
    return tmp_path


class TestDrawFiles:
    def test_smoke(self, root: Path) -> None:
        mask = draw(root, files_mask(["left.png"], ["top.png"]))
        assert mask.dtype == np.uint8
        assert mask.tolist() == [[7, 255, 255, 0], [7, 0, 0, 0]]

    def test_golden(self, tmp_path: Path, golden: Callable[[str], dict[str, Any]]) -> None:
        case = golden("wsol_mask")
        for number, count in enumerate(case["mask_counts"].tolist()):
            names = [f"m{place}.png" for place in range(count)]
            for name, values in zip(names, case["mask_instances"][number], strict=False):
                Image.fromarray(values * 255).save(tmp_path / name)
            Image.fromarray(case["mask_ignore"][number] * 255).save(tmp_path / "ignore.png")
            source = files_mask(names, ["ignore.png"])
            expected = case["mask_gt_224"][number]
            truth = draw(tmp_path, source, (180, 240))
            np.testing.assert_array_equal(localization_truth(truth), expected)

    def test_union_of_instances(self, root: Path) -> None:
        assert draw(root, files_mask(["left.png", "top.png"])).tolist() == [[7, 7, 7, 0], [7, 0, 0, 0]]

    def test_nothing_is_background(self, root: Path) -> None:
        assert not draw(root, files_mask([])).any()

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
    def test_modes(self, root: Path, mode: str) -> None:
        image = Image.fromarray(TOP.astype(np.uint16) if mode == "I;16" else TOP * 255)
        (image if mode == "I;16" else image.convert(mode)).save(root / "m.png")
        assert draw(root, files_mask(["m.png"])).tolist() == (TOP * 7).tolist()

    def test_another_scale(self, root: Path) -> None:
        mask = draw(root, files_mask(["left.png"], ["top.png"]), (4, 8))
        np.testing.assert_array_equal(mask, draw(root, files_mask(["left.png"], ["top.png"])).repeat(2, 0).repeat(2, 1))

    @pytest.mark.parametrize("size", [(683, 1024), (682, 1024), (1068, 1600), (768, 1152), (512, 768)])
    def test_scales_are_rounded(self, root: Path, size: tuple[int, int]) -> None:
        Image.new("1", (1600, 1067)).save(root / "m.png")
        assert draw(root, files_mask(["m.png"]), size).shape == size

    @pytest.mark.parametrize("size", [(1600, 1067), (1065, 1600), (1067, 1605), (680, 1024), (1067, 2134)])
    def test_refuses_another_shape(self, root: Path, size: tuple[int, int]) -> None:
        Image.new("1", (1600, 1067)).save(root / "m.png")
        with pytest.raises(StagingError, match=r"l\.txt:3: mask m\.png: expected the shape .* saw 1600 x 1067"):
            draw(root, files_mask(["m.png"]), size)

    @pytest.mark.parametrize(
        ("path", "match"),
        [("gone.png", "file not found"), ("../left.png", "below the data root"), ("no.png", "not an")],
    )
    def test_refuses_unreadable(self, root: Path, path: str, match: str) -> None:
        (root / "no.png").write_bytes(b"no picture")
        with pytest.raises(StagingError, match=rf"l\.txt:3: mask {path}: .*{match}"):
            draw(root, files_mask([path]))


class TestMaskPaths:
    def test_smoke(self) -> None:
        assert mask_paths(files_mask(["a", "b", "a"], ["c"])) == ["a", "b", "c"]
        assert mask_paths(MaskSource("index", path="m.png")) == ["m.png"]
        assert mask_paths(MaskSource("coco", text="[]")) == []


class TestNearest:
    def test_rows_are_floors(self) -> None:
        values = np.arange(180 * 240).reshape(180, 240)
        found = nearest(values, (224, 224))
        assert found[5, 100] == values[5 * 180 // 224, 100 * 240 // 224]

    def test_the_same_size_is_the_same(self) -> None:
        assert nearest(TOP, (2, 4)) is TOP
