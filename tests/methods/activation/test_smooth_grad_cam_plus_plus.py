import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from methods.activation import (
    GradientReachError,
    PairError,
    UnknownLayerError,
    record,
    smooth_grad_cam_plus_plus,
)
from methods.activation.smooth_grad_cam_plus_plus import smooth_noises

PAIRS = torch.tensor([[1, 1], [0, 4], [1, 0]])


class TestSmoothGradCamPlusPlus:
    def test_smoke(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        maps = smooth_grad_cam_plus_plus(small_net, images, PAIRS, "3", 0.3 * torch.randn(4, *images.shape))
        assert maps.shape == (3, 4, 4)
        assert (maps >= 0).all()

    def test_golden(self, cam_case, close: Callable[..., None]) -> None:
        noises = cam_case.arrays["smooth_noise"]
        found = smooth_grad_cam_plus_plus(cam_case.model, cam_case.images, cam_case.pairs, "features.14", noises)
        close(found, cam_case.arrays["own_SmoothGradCAMpp_raw_S5"], 1e-5)

    def test_equals_the_formula(self, small_net: nn.Module) -> None:
        torch.manual_seed(5)
        images, noises = torch.rand(2, 3, 8, 8), 0.3 * torch.randn(3, 2, 3, 8, 8)
        gradients = torch.stack(
            [record(small_net, images + noise, PAIRS, ["3"]).gradients["3"] for noise in noises]
        ).double()
        activations = record(small_net, images, PAIRS, ["3"]).paired("3")[0].double()
        m1, m2, m3 = (gradients.pow(power).mean(0) for power in (1, 2, 3))
        alpha = m2 / (2 * m2 + (activations * m3).sum((2, 3), keepdim=True) + 1e-8)
        weights = (torch.where(m2 == 0, 0, alpha) * m1.relu()).sum((2, 3), keepdim=True)
        expected = (weights * activations).sum(1).float()
        for rectify in (True, False):
            found = smooth_grad_cam_plus_plus(small_net, images, PAIRS, "3", noises, rectify=rectify)
            torch.testing.assert_close(found, expected.relu() if rectify else expected, rtol=1e-3, atol=1e-5)

    def test_logs_denominators_that_are_not_positive(self, caplog: pytest.LogCaptureFixture) -> None:
        # Activations far below zero and a positive gradient: 2 m2 + sum(A m3) < 0.
        model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(4, 1))
        with torch.no_grad():
            model[0].bias.fill_(-50)
            model[2].weight.fill_(1)
        with caplog.at_level(logging.WARNING):
            smooth_grad_cam_plus_plus(
                model, torch.zeros(1, 3, 2, 2), torch.tensor([[0, 0]]), "0", torch.zeros(1, 1, 3, 2, 2)
            )
        assert "4 of 4 weights of layer '0' have a denominator <= 0" in caplog.text

    def test_rows_do_not_depend_on_their_company(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        together = smooth_grad_cam_plus_plus(small_net, images, PAIRS, "3", smooth_noises(images))
        for place, (row, class_) in enumerate(PAIRS.tolist()):
            one = images[row : row + 1]
            alone = smooth_grad_cam_plus_plus(small_net, one, torch.tensor([[0, class_]]), "3", smooth_noises(one))
            torch.testing.assert_close(together[place], alone[0], rtol=1e-3, atol=1e-5)

    def test_image_without_gradients(self, small_net: nn.Module) -> None:
        with torch.no_grad():
            small_net[9].weight.zero_()
        images = torch.rand(1, 3, 8, 8)
        call = small_net, images, torch.tensor([[0, 0]]), "3", smooth_noises(images)
        with pytest.raises(GradientReachError):
            smooth_grad_cam_plus_plus(*call)
        assert not smooth_grad_cam_plus_plus(*call, allow_zero_gradients=True).any()

    @pytest.mark.parametrize("shape", [(2, 3, 8, 8), (0, 2, 3, 8, 8), (4, 1, 3, 8, 8)])
    def test_refuses_noises(self, small_net: nn.Module, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected noises \[S, B, 3, H, W\] for images \(2, 3, 8, 8\)"):
            smooth_grad_cam_plus_plus(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", torch.zeros(shape))

    def test_refuses_layer_and_pair(self, small_net: nn.Module) -> None:
        images, noises = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8)
        with pytest.raises(UnknownLayerError):
            smooth_grad_cam_plus_plus(small_net, images, torch.tensor([[0, 0]]), "x", noises)
        with pytest.raises(PairError):
            smooth_grad_cam_plus_plus(small_net, images, PAIRS, "3", noises)


class TestSmoothNoises:
    def test_smoke(self) -> None:
        noises = smooth_noises(torch.rand(2, 3, 60, 50), 3, 0.5)
        assert noises.shape == (3, 2, 3, 60, 50)
        assert abs(float(noises.std()) - 0.5) < 0.01
        assert abs(float(noises.mean())) < 0.01
        assert not torch.equal(noises[0], noises[1])

    def test_depends_on_the_seed_and_on_nothing_else(self) -> None:
        found = smooth_noises(torch.rand(1, 3, 8, 8), seed=7)
        torch.rand(3)
        assert torch.equal(smooth_noises(torch.rand(3, 3, 8, 8), seed=7)[:, 2:], found)
        assert not torch.equal(smooth_noises(torch.rand(1, 3, 8, 8), seed=8), found)

    def test_dtype_of_the_images(self) -> None:
        assert smooth_noises(torch.rand(1, 3, 4, 4).bfloat16()).dtype == torch.bfloat16

    def test_memory_format_of_the_images_survives_the_sum(self) -> None:
        images = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
        assert (images + smooth_noises(images)[0]).is_contiguous(memory_format=torch.channels_last)

    def test_takes_no_memory_for_more_images(self) -> None:
        noises = smooth_noises(torch.rand(9, 3, 8, 8))
        assert noises.untyped_storage().nbytes() == 4 * 4 * 3 * 8 * 8

    @pytest.mark.parametrize(("options", "message"), [({"samples": 0}, "samples=0"), ({"sigma": -1.0}, r"sigma=-1\.0")])
    def test_refusals(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            smooth_noises(torch.rand(1, 3, 4, 4), **options)
