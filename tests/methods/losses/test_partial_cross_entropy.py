from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.losses.partial_cross_entropy import partial_cross_entropy

Golden = Callable[[str], dict[str, Any]]
IGNORE = -255


def some_seeds(classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and seeds at about half of the pixels, one of them at least."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 5, 4, generator=generator)
    seeds = torch.randint(0, classes, (2, 5, 4), generator=generator)
    seeds[torch.rand(2, 5, 4, generator=generator) < 0.5] = IGNORE
    seeds[0, 0, 0] = 0
    return logits, seeds


class TestPartialCrossEntropy:
    def test_smoke(self) -> None:
        loss = partial_cross_entropy(*some_seeds(2, 0))
        assert loss.shape == ()
        assert loss > 0

    def test_golden(self, golden: Golden) -> None:
        case = golden("fcam_losses")
        logits = torch.from_numpy(case["logits"]).requires_grad_()
        loss = partial_cross_entropy(logits, torch.from_numpy(case["ce_seeds"]), case["_meta"]["ignore_index"])
        (gradient,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(loss.detach(), torch.as_tensor(case["ce_loss"]), rtol=1e-5, atol=0)
        expected = torch.from_numpy(case["ce_grad"])
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    def test_by_hand(self) -> None:
        """Odds of 3 to 1 for the right class at one pixel, even odds at another, the third left out."""
        logits = torch.tensor([3.0, 1.0, 9.0]).log().view(1, 1, 1, 3)
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        loss = partial_cross_entropy(logits, torch.tensor([[[1, 0, IGNORE]]]))
        assert loss.item() == pytest.approx((torch.tensor(4 / 3).log() + torch.tensor(2.0).log()).item() / 2)

    @given(classes=st.integers(1, 4), seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_pixels_without_a_seed_do_not_matter(self, classes: int, seed: int) -> None:
        logits, seeds = some_seeds(classes, seed)
        known = (seeds != IGNORE)[:, None]
        changed = torch.where(known, logits, logits.flip(3) * 100).requires_grad_()
        loss = partial_cross_entropy(changed, seeds)
        torch.testing.assert_close(loss.detach(), partial_cross_entropy(logits, seeds))
        (gradient,) = torch.autograd.grad(loss, changed)
        assert not (gradient * ~known).any()

    @given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50))
    @settings(max_examples=10, deadline=None)
    def test_adding_to_all_logits_of_a_pixel_changes_nothing(self, seed: int, shift: float) -> None:
        logits, seeds = some_seeds(3, seed)
        torch.testing.assert_close(
            partial_cross_entropy(logits + shift, seeds), partial_cross_entropy(logits, seeds), rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize("shape", [(2, 2, 3, 4), (0, 2, 3, 4), (1, 2, 0, 4)])
    def test_without_any_label_it_is_a_zero_with_a_graph(self, shape: tuple[int, ...]) -> None:
        logits = torch.randn(shape, requires_grad=True)
        loss = partial_cross_entropy(logits, torch.full((shape[0], *shape[2:]), IGNORE))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0
        assert not gradient.any()

    def test_float16_does_not_overflow(self) -> None:
        logits = torch.full((1, 2, 8, 8), 3e4, dtype=torch.float16)
        logits[:, 1] = 0
        assert partial_cross_entropy(logits, torch.ones(1, 8, 8, dtype=torch.int64)).item() == pytest.approx(3e4)

    def test_another_label_to_ignore(self) -> None:
        logits, seeds = some_seeds(2, 1)
        other = torch.where(seeds == IGNORE, 255, seeds)
        assert torch.equal(partial_cross_entropy(logits, other, ignore=255), partial_cross_entropy(logits, seeds))

    def test_refuses_a_label_that_is_no_class(self) -> None:
        with pytest.raises(ValueError, match=r"seeds 0\.\.1 or ignore=-255, got \[255\] at 6 pixels"):
            partial_cross_entropy(torch.zeros(1, 2, 2, 3), torch.full((1, 2, 3), 255))

    @pytest.mark.parametrize("shape", [(1, 3, 2), (2, 2, 3), (1, 1, 2, 3)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected logits"):
            partial_cross_entropy(torch.zeros(1, 2, 2, 3), torch.zeros(shape, dtype=torch.int64))

    def test_refuses_other_types(self) -> None:
        with pytest.raises(TypeError, match="uint8"):
            partial_cross_entropy(torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 3, dtype=torch.uint8))
        with pytest.raises(TypeError, match="floating point logits"):
            partial_cross_entropy(torch.zeros(1, 2, 2, 3, dtype=torch.int64), torch.zeros(1, 2, 3, dtype=torch.int64))
