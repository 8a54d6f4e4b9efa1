from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.losses.size_loss import size_loss

Golden = Callable[[str], dict[str, Any]]


class TestSizeLoss:
    def test_smoke(self) -> None:
        assert size_loss(torch.randn(2, 2, 4, 5), 1.0).shape == ()

    def test_golden(self, golden: Golden) -> None:
        case = golden("fcam_losses")
        steepnesses = [name.removeprefix("size_loss_t") for name in case if name.startswith("size_loss_t")]
        assert {f"size_grad_t{t}" for t in steepnesses} == {name for name in case if name.startswith("size_grad")}
        for t in steepnesses:
            logits = torch.from_numpy(case["logits"]).requires_grad_()
            loss = size_loss(logits, float(t), weight=case["_meta"]["size_lambda"])
            (gradient,) = torch.autograd.grad(loss, logits)
            torch.testing.assert_close(loss.detach(), torch.as_tensor(case[f"size_loss_t{t}"]), rtol=1e-5, atol=0)
            expected = torch.from_numpy(case[f"size_grad_t{t}"])
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    @given(batch=st.integers(1, 3), classes=st.integers(1, 4), seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_is_the_mean_of_images_and_blind_to_order(self, batch: int, classes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(batch, classes, 3, 4, generator=generator, dtype=torch.float64)
        loss = size_loss(logits, 2.0)
        each = torch.stack([size_loss(logits[row : row + 1], 2.0) for row in range(batch)])
        torch.testing.assert_close(loss, each.mean())
        torch.testing.assert_close(loss, size_loss(logits.flip(0, 1, 2, 3), 2.0))

    def test_an_empty_foreground_is_pulled_up(self) -> None:
        logits = torch.stack([torch.zeros(3, 3), torch.full((3, 3), -9.0)])[None].requires_grad_()
        (gradient,) = torch.autograd.grad(size_loss(logits, 1.0), logits)
        assert (gradient[:, 1] < 0).all()

    def test_no_area_at_all_is_finite(self) -> None:
        logits = torch.stack([torch.zeros(3, 3), torch.full((3, 3), -1e4)])[None].requires_grad_()
        loss = size_loss(logits, 1.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()

    def test_float16_does_not_overflow(self) -> None:
        assert size_loss(torch.zeros(1, 1, 300, 300, dtype=torch.float16), 1.0).isfinite()

    def test_weight_scales_it(self) -> None:
        logits = torch.randn(1, 2, 3, 3)
        torch.testing.assert_close(size_loss(logits, 1.0, weight=0.4), 4 * size_loss(logits, 1.0))
        assert size_loss(logits, 1.0, weight=0).item() == 0

    @pytest.mark.parametrize("shape", [(2, 3, 3), (0, 2, 3, 3), (1, 2, 0, 3)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected logits"):
            size_loss(torch.zeros(shape), 1.0)

    def test_refuses_values_that_are_not_finite(self) -> None:
        logits = torch.zeros(1, 2, 2, 2)
        logits[0, 0, 1, 1] = float("nan")
        with pytest.raises(ValueError, match="1 of 8 values"):
            size_loss(logits, 1.0)

    def test_refuses_other_settings(self) -> None:
        with pytest.raises(ValueError, match=r"weight >= 0, got -0\.1"):
            size_loss(torch.zeros(1, 2, 2, 2), 1.0, weight=-0.1)
        with pytest.raises(ValueError, match="positive, finite t"):
            size_loss(torch.zeros(1, 2, 2, 2), 0.0)
        with pytest.raises(TypeError, match="int64"):
            size_loss(torch.zeros(1, 2, 2, 2, dtype=torch.int64), 1.0)
