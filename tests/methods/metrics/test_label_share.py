import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.metrics.label_share import label_share

shares = st.lists(st.floats(0, 1), min_size=1, max_size=8)


class TestLabelShare:
    def test_smoke(self) -> None:
        assert label_share(torch.tensor([0.5, 0.25])) == 0.375

    def test_golden(self) -> None:
        assert label_share(np.array([0.1, 0.0, 0.4, 1.0])) == pytest.approx((0.1 + 1 + 0.4 + 1) / 4)

    def test_nothing(self) -> None:
        assert np.isnan(label_share(np.zeros(0)))

    @given(shares, st.integers(0, 7))
    def test_losing_a_label_never_helps(self, values: list[float], place: int) -> None:
        lost = np.array(values)
        lost[place % len(values)] = 0
        assert label_share(lost) >= label_share(np.array(values)) - 1e-12

    @given(shares)
    def test_order_does_not_matter(self, values: list[float]) -> None:
        assert label_share(np.array(values)) == pytest.approx(label_share(np.array(values[::-1])))
        assert 0 < label_share(np.array(values)) <= 1

    @pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
    def test_refuses_what_is_no_share(self, wrong: float) -> None:
        with pytest.raises(ValueError, match=r"expected shares in 0\.\.1"):
            label_share(np.array([0.5, wrong]))
