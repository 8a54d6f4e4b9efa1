import pytest
import torch
from torch import nn

from methods.networks.pointwise import hasten_pointwise


class TestHastenPointwise:
    def test_smoke(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, (1, 3)))
        assert hasten_pointwise(net) == 1
        assert hasten_pointwise(net) == 0
        assert [net[place].dilation for place in (0, 2, 3)] == [(2, 2), (1, 1), (1, 1)]

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("padding", [0, 1])
    @pytest.mark.parametrize("groups", [1, 2])
    def test_outputs_and_gradients_stay(self, stride: int, padding: int, groups: int) -> None:
        torch.manual_seed(0)
        net = nn.Conv2d(4, 6, 1, stride=stride, padding=padding, groups=groups)
        images = torch.rand(2, 4, 9, 8, requires_grad=True)
        before = net(images)
        (expected,) = torch.autograd.grad(before.square().sum(), images)
        hasten_pointwise(net)
        after = net(images)
        (found,) = torch.autograd.grad(after.square().sum(), images)
        torch.testing.assert_close(after, before)
        torch.testing.assert_close(found, expected)
