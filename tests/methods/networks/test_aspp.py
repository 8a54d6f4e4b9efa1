import pytest
import torch
from torch import nn

from methods.networks.aspp import ASPP, DILATIONS, convolution


def positive(channels: int = 2, width: int = 8) -> ASPP:
    """All weights of convolutions 1 and no norms: what reaches a pixel is a sum of what is around it."""
    network = ASPP(channels, width=width)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    for branch in (*network.branches, network.pooled, network.joined):
        assert isinstance(branch, nn.Sequential)
        branch[1] = nn.Identity()
    return network


class TestASPP:
    @pytest.mark.parametrize("grid", [(1, 1), (1, 9), (7, 5), (40, 41)])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_smoke(self, grid: tuple[int, int], batch: int) -> None:
        network = ASPP(12, width=16).train()
        result = network(torch.rand(batch, 12, *grid))
        assert result.shape == (batch, 16, *grid)
        assert result.isfinite().all()
        assert (result >= 0).all()

    def test_published_widths(self) -> None:
        network = ASPP(2048)
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert [module.kernel_size for module in convolutions] == [(1, 1), *3 * [(3, 3)], (1, 1), (1, 1)]
        assert [module.dilation[0] for module in convolutions] == [*DILATIONS, 1, 1]
        assert sum(module.weight.numel() for module in convolutions) == 2048 * 256 * (1 + 3 * 9 + 1) + 5 * 256 * 256

    def test_a_pixel_sees_its_surroundings_at_every_dilation_and_the_mean(self) -> None:
        network = positive()
        images = torch.zeros(1, 2, 41, 41)
        images[0, :, 20, 20] = 41 * 41
        found = network(images)[0, 0]
        mean = 2 * 8
        direct = 4 * 2 * 8 * 41 * 41
        assert found[20, 20].item() == pytest.approx(mean + direct)
        for dilation in DILATIONS[1:]:
            seen = found[20 + dilation, 20 - dilation].item()
            assert seen == pytest.approx(mean + direct / 4)
        assert found[19, 20].item() == pytest.approx(mean)

    def test_a_constant_shift_of_one_image_does_not_reach_another(self) -> None:
        network, features = ASPP(6, width=8).train(), torch.rand(2, 6, 5, 4)
        changed = features.clone()
        changed[1] += 3
        assert torch.equal(network(features)[0], network(changed)[0])

    def test_a_batch_is_its_images(self) -> None:
        network, features = ASPP(6, width=8).eval(), torch.rand(3, 6, 5, 4)
        torch.testing.assert_close(network(features), torch.cat([network(one[None]) for one in features]))

    def test_gradients_reach_every_parameter_on_a_grid_of_one_pixel(self) -> None:
        network, features = ASPP(6, width=32).train(), torch.rand(1, 6, 1, 1, requires_grad=True)
        network(features).sum().backward()
        assert features.grad is not None
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())

    @pytest.mark.parametrize("width", [0, -8, 4, 12])
    def test_refuses_widths(self, width: int) -> None:
        with pytest.raises(ValueError, match=f"multiple of 8, got {width}"):
            ASPP(4, width=width)

    @pytest.mark.parametrize(("channels", "dilations"), [(0, (1,)), (4, ()), (4, (0, 1)), (4, (6, 6))])
    def test_refuses_channels_and_dilations(self, channels: int, dilations: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="each once; got"):
            ASPP(channels, dilations, width=8)


class TestConvolution:
    @pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 18)])
    def test_keeps_the_grid(self, kernel: int, dilation: int) -> None:
        assert convolution(3, 8, kernel=kernel, dilation=dilation)(torch.rand(1, 3, 6, 4)).shape == (1, 8, 6, 4)
