import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.losses.nystrom import exact_filter, gaussian, nystrom_filter


def points(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


class TestExactFilter:
    def test_smoke(self) -> None:
        assert exact_filter(points(7, 0), torch.ones(7, 2)).shape == (7, 2)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_is_the_formula(self, seed: int) -> None:
        features, values = points(9, seed), points(9, seed + 1)
        weights = (-(features[:, None] - features).square().sum(-1) / 2).exp()
        torch.testing.assert_close(exact_filter(features, values), weights @ values)

    def test_blocks_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features, values = points(50, 0), points(50, 1)
        whole = exact_filter(features, values)
        monkeypatch.setattr("methods.losses.nystrom.CELLS", 150)
        torch.testing.assert_close(exact_filter(features, values), whole)

    def test_close_points_far_from_zero_keep_their_distance(self) -> None:
        features = torch.tensor([[1000.0], [1000.5]])
        assert gaussian(features, features)[0, 1].item() == pytest.approx(0.8825, abs=1e-4)


class TestNystromFilter:
    def test_smoke(self) -> None:
        assert nystrom_filter(points(30, 0), torch.ones(30, 2), landmarks=5).shape == (30, 2)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_with_every_point_a_landmark_it_is_exact(self, seed: int) -> None:
        features, values = points(20, seed), points(20, seed + 1).abs()
        exact = exact_filter(features, values)
        torch.testing.assert_close(nystrom_filter(features, values), exact, rtol=5e-3, atol=5e-3)

    def test_is_the_same_every_time(self) -> None:
        features, values = points(400, 0), points(400, 1)
        torch.manual_seed(1)
        first = nystrom_filter(features, values)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(nystrom_filter(features, values), first)
        assert torch.equal(torch.get_rng_state(), state)

    def test_equal_points_are_no_obstacle(self) -> None:
        sums = nystrom_filter(torch.zeros(1000, 5), torch.ones(1000, 1))
        torch.testing.assert_close(sums, torch.full((1000, 1), 1000.0), rtol=1e-4, atol=0)

    def test_refuses_no_landmark(self) -> None:
        with pytest.raises(ValueError, match="got 0"):
            nystrom_filter(torch.zeros(2, 5), torch.zeros(2, 1), landmarks=0)
