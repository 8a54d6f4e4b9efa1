import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.metrics.floors import centred_box, whole_image


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
