from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.visuals.overlay import heat, outline, overlay, voc_palette


def _image(height: int = 12, width: int = 16) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _square(label: int) -> Any:
    labels = np.zeros((12, 16), np.uint8)
    labels[3:9, 4:12] = label
    return labels


class TestVocPalette:
    def test_smoke(self) -> None:
        palette = voc_palette()
        assert palette.shape == (256, 3)
        assert palette.dtype == np.uint8
        assert len(np.unique(palette, axis=0)) == 256

    def test_known_colours(self) -> None:
        assert voc_palette()[[2, 8, 20]].tolist() == [[0, 128, 0], [64, 0, 0], [0, 64, 128]]


class TestOverlay:
    def test_smoke(self) -> None:
        image = _image()
        before = image.copy()
        drawn = overlay(image, _square(1), voc_palette())
        assert drawn.shape == image.shape
        assert drawn.dtype == np.uint8
        assert np.array_equal(image, before)

    def test_background_is_left_as_it_is(self) -> None:
        drawn = overlay(_image(), _square(1), voc_palette())
        outside = _square(1) == 0
        assert np.array_equal(drawn[outside], _image()[outside])

    def test_inside_is_blended_and_the_line_is_darker(self) -> None:
        image = np.full((12, 16, 3), 100, np.uint8)
        drawn = overlay(image, _square(1), voc_palette(), alpha=0.25)
        assert drawn[5, 7].tolist() == [107, 75, 75]
        assert drawn[3, 7].tolist() == [91, 75, 75]

    @limits(max_examples=10)
    @given(st.integers(0, 2**31))
    def test_no_share_changes_nothing(self, seed: int) -> None:
        labels = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (12, 16))
        assert np.array_equal(overlay(_image(), labels, voc_palette(), alpha=0.0), _image())

    def test_unknown_is_striped_grey(self) -> None:
        image = np.zeros((12, 16, 3), np.uint8)
        inside = overlay(image, np.full((12, 16), 255, np.uint8), voc_palette())
        assert sorted(np.unique(inside).tolist()) == [0, 64]
        assert 0.4 < (inside[..., 0] == 64).mean() < 0.6

    def test_refuses_labels_of_another_size(self) -> None:
        with pytest.raises(ValueError, match=r"image's size \(12, 16\).*got \(6, 8\)"):
            overlay(_image(), np.zeros((6, 8), np.uint8), voc_palette())

    def test_refuses_a_float_image(self) -> None:
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8, got .* float64"):
            overlay(_image() / 255, _square(1), voc_palette())

    def test_refuses_a_short_palette(self) -> None:
        with pytest.raises(ValueError, match=r"palette \(256, 3\) uint8, got \(21, 3\)"):
            overlay(_image(), _square(1), voc_palette()[:21])

    def test_refuses_a_share_above_one(self) -> None:
        with pytest.raises(ValueError, match=r"alpha in 0\.\.1, got 2"):
            overlay(_image(), _square(1), voc_palette(), alpha=2)


class TestOutline:
    @pytest.mark.parametrize(("width", "pixels"), [(1, 24), (2, 40), (3, 48), (9, 48)])
    def test_smoke(self, width: int, pixels: int) -> None:
        drawn = outline(_image(), _square(3), voc_palette(), width)
        changed = (drawn == voc_palette()[3]).all(axis=2)
        assert changed.sum() == pixels
        assert np.array_equal(drawn[~changed], _image()[~changed])

    def test_unknown_has_no_contour(self) -> None:
        assert np.array_equal(outline(_image(), _square(255), voc_palette()), _image())

    def test_the_frame_is_no_contour(self) -> None:
        assert np.array_equal(outline(_image(), np.full((12, 16), 4, np.uint8), voc_palette()), _image())

    def test_refuses_no_width(self) -> None:
        with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
            outline(_image(), _square(1), voc_palette(), 0)


class TestHeat:
    def test_smoke(self) -> None:
        scores = np.linspace(0, 1, 12 * 16, dtype=np.float32).reshape(12, 16)
        drawn = heat(scores, _image())
        assert drawn.shape == (12, 16, 3)
        assert drawn.dtype == np.uint8
        assert np.array_equal(heat(scores, _image(), alpha=0.0), _image())

    def test_stops(self) -> None:
        drawn = heat(np.array([[0.0, 0.125, 0.25, 1.0]]), np.zeros((1, 4, 3), np.uint8), alpha=1.0)
        assert drawn[0].tolist() == [[0, 0, 96], [0, 48, 160], [0, 96, 224], [224, 0, 0]]

    @pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
    def test_refuses_scores(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"finite scores in 0\.\.1"):
            heat(np.full((12, 16), value), _image())

    def test_refuses_another_size(self) -> None:
        with pytest.raises(ValueError, match=r"image's size \(12, 16\)"):
            heat(np.zeros((3, 3)), _image())
