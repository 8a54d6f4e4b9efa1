from collections.abc import Callable

import pytest
import torch
from torch import nn

from methods.activation import score_cam, ss_cam

PAIRS = torch.tensor([[1, 1], [0, 4], [1, 0]])


class TestSsCam:
    def test_smoke(self, small_net: nn.Module) -> None:
        assert ss_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", samples=2).shape == (3, 4, 4)

    def test_golden(self, cam_case, close: Callable[..., None]) -> None:
        if "sscam_x" not in cam_case.arrays:
            assert not cam_case.model.pooled
            return
        pairs = torch.tensor([[0, cam_case.meta["target_classes"][0]]])
        images, noises = cam_case.arrays["sscam_x"], cam_case.arrays["sscam_noise"]
        found = ss_cam(cam_case.model, images, pairs, "features.8", noises=noises)
        close(found, cam_case.arrays["sscam_raw_S3"], 1e-4)

    def test_without_noise_is_score_cam(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        found = ss_cam(small_net, images, PAIRS, "3", samples=2, sigma=0.0)
        torch.testing.assert_close(found, score_cam(small_net, images, PAIRS, "3", masks="normalised_first"))

    def test_depends_on_the_seed_and_on_nothing_else(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        found = ss_cam(small_net, images, PAIRS, "3", samples=3)
        torch.rand(5)
        torch.testing.assert_close(ss_cam(small_net, images, PAIRS, "3", samples=3, batch=1), found)
        alone = ss_cam(small_net, images[1:], torch.tensor([[0, 0]]), "3", samples=3)
        torch.testing.assert_close(alone[0], found[2])
        assert not torch.equal(ss_cam(small_net, images, PAIRS, "3", samples=3, seed=1), found)

    def test_given_noise_follows_the_channels_in_use(self, small_net: nn.Module) -> None:
        images = torch.rand(1, 3, 8, 8)
        noises = torch.randn(2, 1, 4, 8, 8)
        pairs = torch.tensor([[0, 2]])
        whole = ss_cam(small_net, images, pairs, "3", noises=noises, max_maps=2)
        small_batches = ss_cam(small_net, images, pairs, "3", noises=noises, max_maps=2, batch=1)
        torch.testing.assert_close(whole, small_batches)

    def test_noise_of_a_channel_does_not_depend_on_the_others(self, small_net: nn.Module) -> None:
        seen: list[torch.Tensor] = []

        def score(logits: torch.Tensor) -> torch.Tensor:
            seen.append(logits)
            return logits

        images, pairs = torch.rand(1, 3, 8, 8), torch.tensor([[0, 2]])
        for max_maps in (None, 2):
            ss_cam(small_net, images, pairs, "3", samples=1, max_maps=max_maps, score=score)
        _clean, everything, _clean, strongest = seen
        kept = [row for row in everything if any(torch.allclose(row, other) for other in strongest)]
        assert len(everything) == 4
        assert len(kept) == len(strongest) == 2

    def test_noise_has_the_asked_moments(self) -> None:
        seen: list[torch.Tensor] = []

        class Watch(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                seen.append(images)
                return images.mean((2, 3))

        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Identity(), Watch(), nn.Linear(8, 2))
        masked: list[torch.Tensor] = []
        model.register_forward_pre_hook(lambda _module, inputs: masked.append(inputs[0]))
        ss_cam(model, torch.ones(1, 3, 40, 40), torch.tensor([[0, 1]]), "1", samples=5, sigma=2.0)
        noise = torch.cat(masked[1:])[:, 0]  # The masks of constant maps are zero, and so only noise is left.
        assert noise.shape == (40, 40, 40)
        assert abs(float(noise.mean())) < 0.05
        assert abs(float(noise.std()) - 2) < 0.05
        products = torch.corrcoef(noise.flatten(1)) - torch.eye(40)
        assert float(products.abs().max()) < 0.15

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"samples": 0}, "samples=0"),
            ({"sigma": -1.0}, r"sigma=-1\.0"),
            ({"noises": torch.zeros(2, 1, 4, 8, 8)}, r"noises \[N, B, C, H, W\] for images \(2, 3, 8, 8\)"),
            ({"noises": torch.zeros(2, 2, 3, 8, 8)}, "noises for every channel of the layer, got 3"),
        ],
    )
    def test_refusals(self, small_net: nn.Module, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ss_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", **options)
