import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.losses import class_balance, classification_loss


class TestClassBalance:
    def test_golden_single_label(self) -> None:
        # 4 images, 3 classes: 2, 1, 1 positives; N / (K n) = 4/6, 4/3, 4/3.
        targets = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        found = class_balance(targets, multi_label=False)
        torch.testing.assert_close(found, torch.tensor([2 / 3, 4 / 3, 4 / 3]))
        assert found.dtype == torch.float32

    def test_golden_multi_label(self) -> None:
        # Negatives over positives: 1/3, 3/1, and 1 for the class that never occurs.
        targets = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
        torch.testing.assert_close(class_balance(targets, multi_label=True), torch.tensor([1 / 3, 3.0, 1.0]))

    def test_bounds(self) -> None:
        targets = torch.zeros(1000, 2)
        targets[0, 0] = 1
        targets[:, 1] = 1
        torch.testing.assert_close(class_balance(targets, multi_label=True), torch.tensor([20.0, 0.05]))

    @given(st.integers(2, 5), st.integers(0, 2**31), st.booleans())
    @settings(max_examples=20, deadline=None)
    def test_order_of_images_does_not_matter(self, classes: int, seed: int, multi_label: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        targets = torch.nn.functional.one_hot(torch.randint(classes, (20,), generator=generator), classes)
        turned = targets[torch.randperm(20, generator=generator)]
        found = class_balance(targets, multi_label=multi_label)
        assert torch.equal(class_balance(turned, multi_label=multi_label), found)
        assert bool(((found >= 1 / 20) & (found <= 20)).all())


class TestClassificationLoss:
    def test_golden_cross_entropy(self) -> None:
        logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
        targets = torch.tensor([[1, 0], [0, 1]])
        # -ln(3/4) and -ln(1/2)
        plain = (math.log(4 / 3) + math.log(2)) / 2
        assert classification_loss(logits, targets, multi_label=False).item() == pytest.approx(plain, abs=1e-6)
        weighted = (0.5 * math.log(4 / 3) + 2 * math.log(2)) / 2.5
        found = classification_loss(logits, targets, multi_label=False, weights=torch.tensor([0.5, 2.0]))
        assert found.item() == pytest.approx(weighted, abs=1e-6)

    def test_golden_soft_margin(self) -> None:
        logits = torch.tensor([[math.log(3), 0.0]])
        targets = torch.tensor([[True, False]])
        # -ln(3/4) for the positive, -ln(1 - 1/2) for the negative
        plain = (math.log(4 / 3) + math.log(2)) / 2
        assert classification_loss(logits, targets, multi_label=True).item() == pytest.approx(plain, abs=1e-6)
        weighted = (3 * math.log(4 / 3) + math.log(2)) / 2
        found = classification_loss(logits, targets, multi_label=True, weights=torch.tensor([3.0, 5.0]))
        assert found.item() == pytest.approx(weighted, abs=1e-6)

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_large_logits_stay_finite(self, multi_label: bool) -> None:
        logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
        loss = classification_loss(logits, torch.tensor([[0, 1]]), multi_label=multi_label)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()

    @pytest.mark.parametrize("row", [[0, 0], [1, 1]])
    def test_refuses_rows_without_exactly_one_label(self, row: list[int]) -> None:
        with pytest.raises(ValueError, match="expected exactly one label per image"):
            classification_loss(torch.zeros(2, 2), torch.tensor([[1, 0], row]), multi_label=False)

    @pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3,)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected logits and targets \(B, K\), got \(3, 2\) and"):
            classification_loss(torch.zeros(3, 2), torch.zeros(shape), multi_label=True)
