import pytest
import torch

from methods.networks.small import SmallNet


class TestSmallNet:
    def test_smoke(self) -> None:
        logits = SmallNet(7, widths=(2, 3, 4, 5, 6))(torch.rand(2, 3, 64, 32))
        assert logits.shape == (2, 7)
        assert logits.dtype == torch.float32

    def test_stages_halve_the_grid(self) -> None:
        features, sizes = torch.rand(1, 3, 64, 96), []
        for stage in SmallNet(2).eval().stages:
            features = stage(features)
            sizes.append(tuple(features.shape[1:]))
        assert sizes == [(24, 32, 48), (48, 16, 24), (96, 8, 12), (128, 4, 6), (160, 2, 3)]

    def test_head_sees_the_mean_of_the_last_stage(self) -> None:
        network, images = SmallNet(3).eval(), torch.rand(2, 3, 64, 64)
        expected = network.head(network.stages(images).mean(dim=(2, 3)))
        assert torch.equal(network(images), expected)

    def test_learns(self) -> None:
        torch.manual_seed(0)
        images = torch.rand(8, 3, 32, 32) * 0.2
        targets = torch.arange(8) % 2
        images[targets == 1, 0] += 0.5
        network = SmallNet(2, widths=(4, 4, 8, 8, 8))
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
        losses = []
        for _ in range(15):
            loss = torch.nn.functional.cross_entropy(network(images), targets)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 4

    def test_refuses_no_class(self) -> None:
        with pytest.raises(ValueError, match="at least one class, got 0"):
            SmallNet(0)

    def test_refuses_other_than_five_widths(self) -> None:
        with pytest.raises(ValueError, match=r"five positive widths, got \(8, 8\)"):
            SmallNet(2, widths=(8, 8))
