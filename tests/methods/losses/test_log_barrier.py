from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.losses.log_barrier import barrier_steepness, extended_log_barrier

Golden = Callable[[str], dict[str, Any]]
BARRIER = {"elb_fx", "elb_t", "elb_values", "elb_grads", "elb_mean_over_fx", "t_schedule"}
SIZE = {f"size_{what}_t{t}" for what in ("loss", "grad") for t in ("1", "2.5", "10")}
"""Tested in test_size_loss."""
SEEDS = {"ce_seeds", "ce_loss", "ce_grad"}
"""Tested in test_partial_cross_entropy."""


def slope(z: torch.Tensor, t: float) -> torch.Tensor:
    """The derivative of the barrier at each value."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(extended_log_barrier(z, t).sum(), z)[0]


class TestExtendedLogBarrier:
    def test_smoke(self) -> None:
        z = torch.linspace(-3, 3, 24).view(2, 3, 4)
        value = extended_log_barrier(z, 2.0)
        assert value.shape == z.shape
        assert value.isfinite().all()

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        case = golden("fcam_losses")
        assert {name for name in case if not name.startswith("size_")} == BARRIER | SEEDS | {"logits", "_meta"}

    def test_golden(self, golden: Golden) -> None:
        case = golden("fcam_losses")
        z = torch.from_numpy(case["elb_fx"])
        for row, t in enumerate(case["elb_t"]):
            value = extended_log_barrier(z, float(t))
            np.testing.assert_allclose(value.numpy(), case["elb_values"][row], rtol=2e-5, atol=2e-6)
            np.testing.assert_allclose(slope(z, float(t)).numpy(), case["elb_grads"][row], rtol=2e-5)
            np.testing.assert_allclose(value.double().mean().item(), case["elb_mean_over_fx"][row], rtol=2e-5)

    @given(t=st.floats(0.2, 20))
    @settings(max_examples=25, deadline=None)
    def test_value_and_slope_are_continuous_at_the_corner(self, t: float) -> None:
        corner = torch.tensor(-1 / t**2, dtype=torch.float64)
        around = torch.stack([corner * (1 + 1e-9), corner, corner * (1 - 1e-9)])
        value, steep = extended_log_barrier(around, t), slope(around, t)
        torch.testing.assert_close(value, value[1].expand(3), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(steep, torch.full((3,), t, dtype=torch.float64), rtol=1e-7, atol=0)

    @given(t=st.floats(0.2, 20), z=st.floats(-1e4, 1e4))
    @settings(max_examples=50, deadline=None)
    def test_slope_is_positive_and_at_most_t(self, t: float, z: float) -> None:
        steep = slope(torch.tensor(z, dtype=torch.float64), t).item()
        assert steep == pytest.approx(-1 / (t * z) if z <= -1 / t**2 else t)
        assert 0 < steep <= t * (1 + 1e-12)

    def test_slope_agrees_with_differences(self) -> None:
        z = torch.tensor([-3.0, -0.5, -0.2, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda values: extended_log_barrier(values, 1.7), (z,))

    @pytest.mark.parametrize("z", [0.0, 1e-30, -1e-30, 1e30, -1e30])
    def test_no_gradient_is_lost_far_from_the_corner(self, z: float) -> None:
        assert slope(torch.tensor([z]), 5.0).isfinite().all()

    def test_takes_t_as_a_tensor(self) -> None:
        z = torch.linspace(-2, 1, 7)
        assert torch.equal(extended_log_barrier(z, torch.tensor(2.5)), extended_log_barrier(z, 2.5))

    @pytest.mark.parametrize("t", [0.0, -1.0, float("nan"), float("inf")])
    def test_refuses_another_t(self, t: float) -> None:
        with pytest.raises(ValueError, match="positive, finite t"):
            extended_log_barrier(torch.zeros(2), t)

    def test_refuses_integers(self) -> None:
        with pytest.raises(TypeError, match="int64"):
            extended_log_barrier(torch.tensor([-1]), 1.0)


class TestBarrierSteepness:
    def test_golden(self, golden: Golden) -> None:
        expected = golden("fcam_losses")["t_schedule"]
        np.testing.assert_allclose([barrier_steepness(n) for n in range(len(expected))], expected, rtol=1e-4)

    def test_limit_holds_for_ever(self) -> None:
        assert barrier_steepness(10**9) == 10

    def test_refuses_less_than_no_update(self) -> None:
        with pytest.raises(ValueError, match="got -1"):
            barrier_steepness(-1)
