from collections.abc import Callable

import pytest
import torch
from torch import nn

from methods.activation import full_grad

PAIRS = torch.tensor([[1, 1], [0, 4], [1, 0]])


class TestFullGrad:
    def test_smoke(self, small_net: nn.Module) -> None:
        maps = full_grad(small_net, torch.rand(2, 3, 8, 6), PAIRS)
        assert maps.shape == (3, 8, 6)
        assert (maps >= 0).all()
        assert full_grad(small_net, torch.rand(2, 3, 8, 6), PAIRS[:0]).shape == (0, 8, 6)

    @pytest.mark.parametrize("net", ["A", "B"])
    @pytest.mark.parametrize(
        ("name", "truncation"), [("idiap_saliency", None), ("lt_fullgrad_d0", 0), ("lt_fullgrad_d20", 20)]
    )
    def test_golden(
        self, full_grad_case: Callable, close: Callable[..., None], net: str, name: str, truncation: int | None
    ) -> None:
        case = full_grad_case(net)
        found = full_grad(case.model, case.arrays["x"], case.pairs, truncation)
        close(found[:, None], case.arrays[name], 1e-4)

    def test_rows_do_not_depend_on_their_company(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        together = full_grad(small_net, images, PAIRS)
        for place, pair in enumerate(PAIRS):
            alone = full_grad(small_net, images[pair[0] : pair[0] + 1], torch.tensor([[0, int(pair[1])]]))
            torch.testing.assert_close(together[place], alone[0])

    def test_leaves_the_network_as_it_was(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        full_grad(small_net.train(), images, PAIRS)
        assert all(module.training for module in small_net.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in small_net.parameters())
        assert images.grad is None

    @pytest.mark.parametrize("truncation", [-1, 101, 0.5])
    def test_refuses_truncation(self, small_net: nn.Module, truncation: object) -> None:
        with pytest.raises(ValueError, match=r"integer in 0\.\.100"):
            full_grad(small_net, torch.rand(2, 3, 8, 8), PAIRS, truncation)
