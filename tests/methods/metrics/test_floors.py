import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from methods.metrics.floors import centred_box, centred_gaussian, whole_image


class TestWholeImage:
    def test_smoke(self) -> None:
        mask = whole_image([2, 5], (3, 4))
        assert (mask.shape, mask.dtype) == ((3, 4), np.uint8)
        assert (mask == 2).all()

    def test_no_label_is_background(self) -> None:
        assert not whole_image([], (3, 4)).any()


class TestCentredBox:
    def test_golden(self) -> None:
        # Half of 4 rows are 2; half of 5 columns are 2.5, rounded to the even 2, with one column more on the right.
        expected = [[0, 0, 0, 0, 0], [0, 3, 3, 0, 0], [0, 3, 3, 0, 0], [0, 0, 0, 0, 0]]
        assert centred_box([3, 4], (4, 5), 0.5).tolist() == expected

    def test_whole_side_is_the_whole_image(self) -> None:
        assert np.array_equal(centred_box([1], (7, 5), 1), whole_image([1], (7, 5)))

    def test_no_label_is_background(self) -> None:
        assert not centred_box([], (6, 6), 0.5).any()

    @given(st.integers(1, 40), st.integers(1, 40), st.floats(0.001, 1))
    def test_box_is_centred_and_never_empty(self, height: int, width: int, side: float) -> None:
        mask = centred_box([1], (height, width), side)
        for axis, extent in ((1, height), (0, width)):
            inside = np.flatnonzero(mask.any(axis=axis))
            assert len(inside) == max(1, round(extent * side))
            before, after = inside[0], extent - 1 - inside[-1]
            assert after - before in (0, 1)

    @pytest.mark.parametrize("side", [0, -0.5, 1.01, float("nan")])
    def test_refuses_sides_out_of_range(self, side: float) -> None:
        with pytest.raises(ValueError, match=r"expected a side in \(0, 1\]"):
            centred_box([1], (4, 4), side)


class TestCentredGaussian:
    def test_golden(self) -> None:
        # One standard deviation is 2 of 8 pixels; the centre lies between two of them.
        distance = (np.arange(8) - 3.5) / 2
        expected = np.exp(-(distance**2) / 2) / np.exp(-(0.25**2) / 2)
        np.testing.assert_allclose(centred_gaussian((1, 8))[0], expected)

    @limits(max_examples=25)
    @given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 2))
    def test_symmetric_and_falling_from_one(self, height: int, width: int, spread: float) -> None:
        found = centred_gaussian((height, width), spread)
        assert found.max() == 1
        assert found.min() >= 0
        np.testing.assert_allclose(found, found[::-1, ::-1])
        assert (np.diff(found[height // 2, width // 2 :]) <= 0).all()

    @pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf")])
    def test_refuses_widths(self, width: float) -> None:
        with pytest.raises(ValueError, match="expected a positive width"):
            centred_gaussian((4, 4), width)

    def test_refuses_an_empty_image(self) -> None:
        with pytest.raises(ValueError, match="at least 1 pixel"):
            centred_gaussian((0, 4))
