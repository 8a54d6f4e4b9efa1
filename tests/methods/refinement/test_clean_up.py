import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from methods.refinement.clean_up import clean_up

IGNORE = 255


def _random(seed: int, shape: tuple[int, ...] = (2, 9, 11), values: tuple[int, ...] = (0, 1, 1, 2, IGNORE)) -> Tensor:
    drawn = torch.randint(0, len(values), shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor(values, dtype=torch.uint8)[drawn]


def _image(*rows: str) -> Tensor:
    """A label map in letters: ``.`` background, ``?`` ignored."""
    codes = {".": 0, "?": IGNORE}
    return torch.tensor([[[codes[one] if one in codes else int(one) for one in row] for row in rows]]).byte()


class TestCleanUp:
    def test_smoke(self) -> None:
        found = clean_up(_random(0))
        assert found.shape == (2, 9, 11)
        assert found.dtype == torch.uint8

    @pytest.mark.parametrize(("pixels", "kept"), [(9, False), (10, True), (11, True)])
    def test_a_component_of_just_the_share_stays(self, pixels: int, kept: bool) -> None:
        labels = torch.zeros(1, 10, 100, dtype=torch.uint8)
        labels[0, 5, :pixels] = 4
        assert bool(clean_up(labels, min_share=0.01).any()) == kept

    def test_diagonal_neighbours_are_one_component(self) -> None:
        labels = _image("1...", ".1..", "..1.", "....")
        assert torch.equal(clean_up(labels, min_share=3 / 16), labels)

    def test_sizes_are_of_components_and_not_of_classes(self) -> None:
        found = clean_up(_image("11.1", "11.."), min_share=2 / 8)
        assert torch.equal(found, _image("11..", "11.."))

    def test_fills_a_hole_and_what_a_speck_leaves(self) -> None:
        labels = _image("11111", "1.121", "11111")
        assert torch.equal(clean_up(labels, min_share=0.1), torch.ones_like(labels))

    @pytest.mark.parametrize(
        "labels",
        [
            _image("111", "1.1", "1.1"),
            _image("111", "1.?", "111"),
            _image("111", "1.2", "222"),
            _image("???", "?.?", "???"),
        ],
        ids=["open at the border", "beside ignored", "between classes", "inside of ignored"],
    )
    def test_leaves_background_that_is_no_hole(self, labels: Tensor) -> None:
        assert torch.equal(clean_up(labels, min_share=0), labels)

    def test_a_diagonal_gap_does_not_open_a_hole(self) -> None:
        assert torch.equal(clean_up(_image("111", "1.1", "11."), min_share=0), _image("111", "111", "11."))

    def test_holes_stay_on_request(self) -> None:
        labels = _image("111", "1.1", "111")
        assert torch.equal(clean_up(labels, min_share=0, fill_holes=False), labels)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_holes_of_one_class_agree_with_scipy(self, seed: int) -> None:
        labels = _random(seed, values=(0, 5, 5))
        expected = torch.stack([torch.from_numpy(ndimage.binary_fill_holes(one.numpy())) for one in labels])
        assert torch.equal(clean_up(labels, min_share=0) == 5, expected)

    @given(seed=st.integers(0, 2**31), share=st.floats(0, 0.2))
    @settings(max_examples=15, deadline=None)
    def test_ignored_pixels_stay_and_no_class_is_invented(self, seed: int, share: float) -> None:
        labels = _random(seed)
        found = clean_up(labels, min_share=share)
        assert torch.equal(found == IGNORE, labels == IGNORE)
        for before, after in zip(labels, found):
            assert set(after.unique().tolist()) <= set(before.unique().tolist()) | {0}

    @given(seed=st.integers(0, 2**31), share=st.floats(0, 0.2))
    @settings(max_examples=15, deadline=None)
    def test_twice_is_once(self, seed: int, share: float) -> None:
        once = clean_up(_random(seed), min_share=share)
        assert torch.equal(clean_up(once, min_share=share), once)

    @pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1), (1, 4, 4000)])
    @pytest.mark.parametrize("value", [0, 9, IGNORE])
    def test_sizes(self, shape: tuple[int, ...], value: int) -> None:
        labels = torch.full(shape, value, dtype=torch.uint8)
        assert torch.equal(clean_up(labels), labels)

    def test_keeps_its_input(self) -> None:
        labels = _random(3)
        before = labels.clone()
        clean_up(labels, min_share=0.5)
        assert torch.equal(labels, before)

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_refuses_other_shares(self, share: float) -> None:
        with pytest.raises(ValueError, match=r"min_share in 0\.\.1"):
            clean_up(_random(0), min_share=share)

    def test_refuses_other_dtypes(self) -> None:
        with pytest.raises(TypeError, match=r"torch\.int64"):
            clean_up(torch.zeros(1, 2, 2, dtype=torch.int64))

    def test_refuses_one_image(self) -> None:
        with pytest.raises(ValueError, match=r"\[B, H, W\], got shape \(2, 2\)"):
            clean_up(torch.zeros(2, 2, dtype=torch.uint8))
