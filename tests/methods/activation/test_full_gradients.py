from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.activation import PairError, RecordingError, full_gradients


class TestFullGradients:
    def test_smoke(self, small_net: nn.Module) -> None:
        found = full_gradients(small_net, torch.rand(2, 3, 8, 8), torch.tensor([[1, 0], [0, 3], [1, 4]]))
        assert list(found.gradients) == ["0", "1", "4", "9"]
        assert found.term("1").shape == (3, 4, 8, 8)
        assert found.term("9").shape == (3, 5)
        assert found.total().shape == (3,)

    @pytest.mark.parametrize("net", ["A", "B"])
    def test_golden(self, full_grad_case: Callable, close: Callable[..., None], net: str) -> None:
        case = full_grad_case(net)
        found = full_gradients(case.model, case.arrays["x"], case.pairs)
        expected = case.arrays["logits"][case.pairs[:, 0], case.pairs[:, 1]]
        close(found.logits, expected, 1e-5)
        close(found.total(), case.arrays["full_gradient_sum"], 1e-4)
        close(found.input_gradients, case.arrays["input_grad"], 1e-5)
        assert len(found.gradients) == sum(name.startswith("bias_grad") for name in case.arrays)
        for index, layer in enumerate(found.gradients):
            term = found.term(layer)
            close(term.sum((2, 3)) if term.ndim == 4 else term, case.arrays[f"bias_grad_{index}_sum"], 1e-5)

    @given(st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_terms_sum_to_the_logit(self, seed: int) -> None:
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, affine=seed % 2 == 0),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 5, 3, bias=False),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Flatten(),
            nn.Linear(80, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        ).double()
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
        pairs = torch.tensor([[1, 2], [0, 0], [1, 1]])
        found = full_gradients(model, torch.randn(2, 3, 8, 8).double(), pairs)
        torch.testing.assert_close(found.total(), found.logits)

    def test_leaves_out_layers_not_reached(self) -> None:
        class Auxiliary(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.aux, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 2), nn.Linear(2, 2)

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.head(self.conv(images).mean((2, 3)))

        found = full_gradients(Auxiliary(), torch.rand(1, 3, 2, 2), torch.tensor([[0, 1]]))
        assert list(found.gradients) == ["conv", "head"]

    def test_network_without_biases(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 2, 2, bias=False), nn.Flatten())
        found = full_gradients(model, torch.rand(1, 3, 2, 2), torch.tensor([[0, 1]]))
        assert found.biases == {}
        torch.testing.assert_close(found.total(), found.logits)

    def test_refuses_batch_statistics(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten())
        with pytest.raises(RecordingError, match="layer '0' normalises by its batch"):
            full_gradients(model, torch.rand(2, 3, 2, 2), torch.tensor([[0, 0]]))

    def test_refuses_pairs(self, small_net: nn.Module) -> None:
        with pytest.raises(PairError):
            full_gradients(small_net, torch.rand(1, 3, 8, 8), torch.tensor([[1, 0]]))
