import threading

import pytest
import torch
from torch import nn

from methods.activation.frozen import _holds, frozen


class TestFrozen:
    def test_smoke(self, small_net: nn.Module) -> None:
        with frozen(small_net.train()):
            assert not any(module.training for module in small_net.modules())
            assert not any(parameter.requires_grad for parameter in small_net.parameters())
        assert all(module.training for module in small_net.modules())
        assert _holds == {}

    def test_part_within_whole(self, small_net: nn.Module) -> None:
        with frozen(small_net):
            with frozen(small_net[0]):
                pass
            assert not small_net[0].weight.requires_grad
        assert small_net[0].weight.requires_grad

    def test_restores_after_an_exception(self, small_net: nn.Module) -> None:
        with pytest.raises(KeyError), frozen(small_net.train()):
            raise KeyError
        assert small_net.training

    def test_shared_parameters_and_modules(self) -> None:
        shared = nn.Linear(2, 2)
        model = nn.Sequential(shared, shared, nn.Linear(2, 2))
        model[2].weight = shared.weight
        with frozen(model):
            pass
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_last_thread_out_restores(self, small_net: nn.Module) -> None:
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with frozen(small_net):
                entered.set()
                leave.wait(10)

        thread = threading.Thread(target=hold)
        with frozen(small_net.train()):
            thread.start()
            entered.wait(10)
        still_frozen = not small_net.training and not small_net[0].weight.requires_grad
        leave.set()
        thread.join()
        assert still_frozen
        assert small_net.training
        assert small_net[0].weight.requires_grad
        assert torch.is_grad_enabled()
