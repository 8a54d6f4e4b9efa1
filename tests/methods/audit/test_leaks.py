import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.audit import Leak, find_leaks, fingerprint
from methods.audit.leaks import CELLS, ORIENTATIONS


def picture(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    return np.rot90(image if orientation < 4 else image[:, ::-1], orientation % 4)


class TestFingerprint:
    def test_smoke(self) -> None:
        cells = fingerprint(picture(0))
        assert cells.shape == (CELLS,)
        assert cells.dtype == np.float32
        assert np.linalg.norm(cells) == pytest.approx(1, abs=1e-5)
        assert cells.mean() == pytest.approx(0, abs=1e-6)

    def test_cells_are_block_means_where_sizes_divide(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (48, 160, 3), dtype=np.uint8)
        means = image.reshape(16, 3, 16, 10, 3).mean(axis=(1, 3, 4)).ravel()
        means -= means.mean()
        np.testing.assert_allclose(fingerprint(image), means / np.linalg.norm(means), atol=1e-5)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 90), st.integers(1, 90))
    def test_whole_pixels_repeated_change_nothing(self, height: int, width: int) -> None:
        image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        twice = image.repeat(2, axis=0).repeat(3, axis=1)
        np.testing.assert_allclose(fingerprint(image), fingerprint(twice), atol=1e-4)

    @pytest.mark.parametrize("value", [0, 128, 255])
    @pytest.mark.parametrize("size", [(1, 1), (1, 4000), (100, 3)])
    def test_flat_images_have_none(self, value: int, size: tuple[int, int]) -> None:
        image = np.full((*size, 3), value, np.uint8)
        assert not fingerprint(image).any()

    @pytest.mark.parametrize(
        "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
    )
    def test_refuses_other_arrays(self, image: np.ndarray) -> None:
        with pytest.raises(ValueError, match="expected an image"):
            fingerprint(image)


class TestFindLeaks:
    @pytest.mark.parametrize("orientation", range(ORIENTATIONS))
    def test_finds_every_orientation(self, orientation: int) -> None:
        original = picture(1)
        for images in ([picture(0), original, turn(original, orientation)], [turn(original, orientation), original]):
            splits = ["a", "a", "b"][-len(images) :]
            prints = np.stack([fingerprint(image) for image in images])
            (leak,) = find_leaks(prints, splits)
            restored = turn(images[leak.row_b], leak.orientation)
            assert leak.row_a == len(images) - 2
            assert leak.correlation == pytest.approx(1, abs=1e-5)
            np.testing.assert_array_equal(restored, images[leak.row_a])

    def test_rows_are_in_order_when_splits_alternate(self) -> None:
        prints = np.stack([fingerprint(turn(picture(0), k)) for k in (0, 1, 2)])
        leaks = find_leaks(prints, [7, 8, 7])
        assert [(leak.row_a, leak.row_b, leak.orientation) for leak in leaks] == [(0, 1, 3), (1, 2, 3)]

    def test_one_split_has_no_leak(self) -> None:
        prints = np.stack([fingerprint(picture(0))] * 3)
        assert find_leaks(prints, ["a"] * 3) == []
        assert find_leaks(np.empty((0, CELLS), np.float32), []) == []

    def test_flat_images_match_nothing(self) -> None:
        assert find_leaks(np.zeros((4, CELLS), np.float32), ["a", "b", "a", "b"]) == []

    def test_half_precision_is_enough(self) -> None:
        prints = np.stack([fingerprint(picture(0)), fingerprint(picture(0))]).astype(np.float16)
        (leak,) = find_leaks(prints, ["a", "b"], threshold=0.999)
        assert leak == Leak(0, 1, leak.correlation, 0)

    def test_blocks_agree_with_all_pairs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        prints = np.random.default_rng(0).normal(size=(60, CELLS)).astype(np.float32)
        prints /= np.linalg.norm(prints, axis=1, keepdims=True)
        splits = [f"s{row % 3}" for row in range(60)]
        whole = find_leaks(prints, splits, threshold=0.05)
        monkeypatch.setattr("methods.audit.leaks._BLOCK", 7)
        parts = find_leaks(prints, splits, threshold=0.05)
        assert [(leak.row_a, leak.row_b, leak.orientation) for leak in parts] == [
            (leak.row_a, leak.row_b, leak.orientation) for leak in whole
        ]
        limited = find_leaks(prints, splits, threshold=0.05, limit=10)
        assert [leak.row_a for leak in limited] == [leak.row_a for leak in whole[:10]]
        assert all(splits[leak.row_a] != splits[leak.row_b] for leak in whole)

    def test_copies_stay_within_the_limit(self) -> None:
        prints = np.repeat(fingerprint(picture(0))[None], 3000, axis=0)
        leaks = find_leaks(prints, [row % 2 for row in range(3000)], limit=50)
        assert len(leaks) == 50

    def test_natural_pictures(self, shared: Path) -> None:
        root = shared / "data" / "natural_voc"
        with (root / "splits.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["split"] in {"train", "val"}][::8]
        images = []
        for row in rows:
            with Image.open(root / "JPEGImages" / f"{row['id']}.jpg") as image:
                images.append(np.asarray(image.convert("RGB")))
        prints = np.stack([fingerprint(image) for image in images])
        turned = np.stack([fingerprint(np.rot90(image)) for image in images])
        assert len(find_leaks(prints, [row["split"] for row in rows])) <= 2
        both = find_leaks(np.concatenate([prints, turned]), [0] * len(rows) + [1] * len(rows))
        found = {leak.row_a for leak in both if leak.row_b == leak.row_a + len(rows) and leak.orientation == 3}
        assert len(found) == len(rows)

    @pytest.mark.parametrize(
        ("shape", "splits", "threshold", "match"),
        [
            ((2, 9), 2, 0.9, r"\(N, 256\)"),
            ((2, CELLS), 3, 0.9, "and 3"),
            ((2, CELLS), 2, 0.0, "0 < threshold <= 1"),
            ((2, CELLS), 2, 1.1, "0 < threshold <= 1"),
        ],
    )
    def test_refusals(self, shape: tuple[int, int], splits: int, threshold: float, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            find_leaks(np.zeros(shape, np.float32), list(range(splits)), threshold=threshold)

    def test_refuses_nan(self) -> None:
        with pytest.raises(ValueError, match="not finite"):
            find_leaks(np.full((2, CELLS), np.nan, np.float32), ["a", "b"])
