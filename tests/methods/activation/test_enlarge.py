import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from methods.activation.enlarge import enlarge


class TestEnlarge:
    def test_smoke(self) -> None:
        assert enlarge(torch.rand(2, 3, 4), (7, 9)).shape == (2, 7, 9)
        assert enlarge(torch.rand(0, 3, 4), (7, 9)).shape == (0, 7, 9)

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_equals_interpolate(self, align_corners: bool) -> None:
        maps = torch.rand(2, 3, 4)
        expected = interpolate(maps[None], (7, 9), mode="bilinear", align_corners=align_corners)[0]
        assert torch.equal(enlarge(maps, (7, 9), align_corners=align_corners), expected)

    @given(st.floats(-1e6, 1e6, width=32), st.integers(1, 60), st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_constant_stays_constant(self, value: float, size: int, align_corners: bool) -> None:
        assert (enlarge(torch.full((1, 3, 2), value), (size, 61), align_corners=align_corners) == value).all()

    def test_own_size_changes_nothing(self) -> None:
        maps = torch.rand(2, 5, 5)
        assert torch.equal(enlarge(maps, (5, 5)), maps)

    def test_shows_nan(self) -> None:
        maps = torch.rand(2, 2, 2)
        maps[1, 0, 0] = float("nan")
        assert enlarge(maps, (4, 4)).isnan().flatten(1).any(1).tolist() == [False, True]

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match=r"got \(2, 2\) and \(4, 4\)"):
            enlarge(torch.rand(2, 2), (4, 4))
        with pytest.raises(ValueError, match=r"at least 1 pixel, got \(1, 2, 2\) and \(0, 4\)"):
            enlarge(torch.rand(1, 2, 2), (0, 4))
