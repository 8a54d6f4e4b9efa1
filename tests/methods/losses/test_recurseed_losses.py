from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import multilabel_soft_margin_loss

from methods.losses.recurseed_losses import RecurSeedLosses, activations, reconstruction_loss, recurseed_losses

Golden = Callable[[str], dict[str, Any]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def batch(seed: int = 0) -> Batch:
    """Class maps, logits, targets, labels and classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (2, 6, 8), generator=generator).to(torch.uint8)
    labels[:, 0] = 255
    return (
        torch.randn(2, 3, 3, 4, generator=generator),
        torch.randn(2, 4, 6, 8, generator=generator),
        torch.rand(2, 3, 3, 4, generator=generator),
        labels,
        (torch.rand(2, 3, generator=generator) > 0.3).float(),
    )


class TestRecurSeedLosses:
    def test_smoke(self) -> None:
        terms = recurseed_losses(*batch())
        assert isinstance(terms, RecurSeedLosses)
        assert all(term.shape == () and term.isfinite() for term in terms)

    def test_golden(self, golden: Golden) -> None:
        case = golden("recurseed_cf_mix")
        maps, logits, targets, labels, classes = (
            torch.from_numpy(case[key]) for key in ("M_rs", "logits", "rs_maps", "cf_labels", "image_labels")
        )
        assert reconstruction_loss(maps, targets).item() == pytest.approx(case["l1_mean"].item(), rel=1e-6)
        terms = recurseed_losses(maps, logits, targets, labels, classes)
        assert terms.seg_loss.item() == pytest.approx(case["ce_ignore255"].item(), rel=1e-6)

    def test_terms(self) -> None:
        maps, logits, targets, labels, classes = batch()
        terms = recurseed_losses(maps, logits, targets, labels, classes)
        assert terms.class_loss == multilabel_soft_margin_loss(maps.mean(dim=(2, 3)), classes)
        assert terms.re_loss == (activations(maps, classes) - targets).abs().mean()
        expected = RecurSeedLosses(*torch.tensor([1.0, 10.0, 100.0]))
        assert expected.total() == 111
        assert expected.total(classes=3, reconstruction=0, segmentation=2) == 203

    def test_the_target_carries_no_gradient(self) -> None:
        maps, logits, targets, labels, classes = batch()
        moving = torch.sigmoid(maps.requires_grad_()) + targets
        total = recurseed_losses(maps, logits, moving, labels, classes).total()
        still = recurseed_losses(maps, logits, moving.detach(), labels, classes).total()
        (gradient,), (expected,) = (torch.autograd.grad(loss, maps, retain_graph=True) for loss in (total, still))
        assert gradient.any()
        assert torch.equal(gradient, expected)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_ignored_pixels_do_not_count(self, seed: int) -> None:
        maps, logits, targets, labels, classes = batch(seed)
        changed = logits + 9 * torch.rand(logits.shape) * (labels == 255)[:, None]
        one, other = (recurseed_losses(maps, each, targets, labels, classes).seg_loss for each in (logits, changed))
        assert one == other

    def test_without_a_certain_pixel(self) -> None:
        maps, logits, targets, labels, classes = batch()
        terms = recurseed_losses(maps, logits.requires_grad_(), targets, torch.full_like(labels, 255), classes)
        (gradient,) = torch.autograd.grad(terms.seg_loss, logits)
        assert terms.seg_loss == 0
        assert not gradient.any()

    def test_half_precision(self) -> None:
        maps, logits, targets, labels, classes = batch()
        terms = recurseed_losses(maps.bfloat16(), logits.bfloat16(), targets, labels, classes)
        assert {term.dtype for term in terms} == {torch.float32}

    def test_refuses_labels_of_other_types(self) -> None:
        maps, logits, targets, labels, classes = batch()
        with pytest.raises(TypeError, match=r"torch\.int64"):
            recurseed_losses(maps, logits, targets, labels.long(), classes)

    def test_refuses_labels_above_the_classes(self) -> None:
        maps, logits, targets, labels, classes = batch()
        labels[0, 1, 1] = 4
        with pytest.raises(ValueError, match=r"0\.\.3 or ignore=255, got \[4\]"):
            recurseed_losses(maps, logits, targets, labels, classes)

    def test_refuses_shapes_that_do_not_agree(self) -> None:
        maps, logits, targets, labels, classes = batch()
        with pytest.raises(ValueError, match=r"\(2, 3, 3, 4\) and \(2, 3, 6, 8\)"):
            recurseed_losses(maps, logits[:, 1:], targets, labels, classes)
        with pytest.raises(ValueError, match=r"of one shape, got \(2, 3, 3, 4\) and \(2, 3, 3, 3\)"):
            recurseed_losses(maps, logits, targets[..., 1:], labels, classes)
        with pytest.raises(ValueError, match=r"\(2, 3, 3, 4\) and \(2, 2\)"):
            activations(maps, classes[:, 1:])


class TestActivations:
    @given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
    @settings(max_examples=5, deadline=None)
    def test_scale_does_not_matter(self, seed: int, scale: float) -> None:
        maps, *_, classes = batch(seed)
        found = activations(maps, classes)
        torch.testing.assert_close(activations(maps * scale, classes), found)
        assert found.min() >= 0
        assert found.max() <= 1
        assert not found[classes == 0].any()

    def test_nothing_positive(self) -> None:
        maps = (-torch.rand(1, 2, 3, 3)).requires_grad_()
        found = activations(maps, torch.ones(1, 2))
        (gradient,) = torch.autograd.grad(found.sum(), maps)
        assert not found.any()
        assert gradient.isfinite().all()
