from collections.abc import Callable
from typing import Any

import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from methods.losses.bilateral import Kernel, bilateral_filter
from methods.losses.crf_loss import crf_loss

Golden = Callable[[str], dict[str, Any]]
PHOTOGRAPHS: Any = skimage.data
CONFIGURATIONS = {"paper", "half", "narrow"}
PARTS = {"loss", "filtered", "filtered_exact", "grad_prob", "grad_logits"}
KERNELS: list[Kernel] = ["lattice", "exact", "nystrom"]


def some(batch: int = 2, classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of few colours, and logits."""
    generator = torch.Generator().manual_seed(seed)
    images = 40.0 * torch.randint(0, 6, (batch, 3, 6, 8), generator=generator)
    return images, torch.randn(batch, classes, 6, 8, generator=generator)


def slope(images: Tensor, logits: Tensor, **settings: Any) -> Tensor:
    """Gradient of the loss with respect to the logits, flat."""
    logits = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(crf_loss(images, logits.softmax(1), **settings), logits)
    return gradient.flatten()


class TestCrfLoss:
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_smoke(self, kernel: Kernel) -> None:
        images, logits = some()
        loss = crf_loss(images, logits.softmax(1), kernel=kernel)
        assert loss.shape == ()
        assert -1e-5 < loss < 0

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        case = golden("crf_loss")
        arrays = {f"{name}_{part}" for name in case["_meta"]["configs"] for part in PARTS}
        assert set(case) == arrays | {"image", "logits", "_meta"}
        assert set(case["_meta"]["configs"]) == CONFIGURATIONS

    @pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
    def test_golden(self, golden: Golden, name: str) -> None:
        case = golden("crf_loss")
        about = case["_meta"]["configs"][name]
        image, logits = torch.from_numpy(case["image"]), torch.from_numpy(case["logits"]).requires_grad_()
        maps = logits.softmax(1)
        sigmas = {"sigma_rgb": about["sigma_rgb"], "sigma_xy": about["sigma_xy"]}
        own: dict[str, Any] = {**sigmas, "scale": about["scale_factor"], "weight": case["_meta"]["weight"]}
        loss = crf_loss(image, maps, **own)
        for expected in (float(case[f"{name}_loss"]), about["loss"]):
            assert loss.item() == pytest.approx(expected, rel=2e-6)
        exact = crf_loss(image, maps, kernel="exact", **own)
        assert exact.item() == pytest.approx(about["loss_exact_gaussian"], rel=1e-5)
        gradients = torch.autograd.grad(loss, (maps, logits))
        for gradient, part in zip(gradients, ("grad_prob", "grad_logits"), strict=True):
            wanted = torch.from_numpy(case[f"{name}_{part}"])
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_gradient_is_that_of_a_constant_kernel(self, kernel: Kernel) -> None:
        images, logits = some(batch=3)
        maps = logits.softmax(1).requires_grad_()
        (gradient,) = torch.autograd.grad(5 * crf_loss(images, maps, weight=2.0, kernel=kernel), maps)
        expected = -5 * 2 * 2.0 / 3 * bilateral_filter(images, maps, kernel=kernel)
        torch.testing.assert_close(gradient, expected)

    def test_gradient_agrees_with_differences(self) -> None:
        images, logits = some(batch=1)
        maps = logits.double().softmax(1).requires_grad_()
        own: dict[str, Any] = {"weight": 1e-3, "kernel": "exact"}
        assert torch.autograd.gradcheck(lambda s: crf_loss(images, s, **own), (maps,), eps=1e-2, atol=1e-4)

    @pytest.mark.parametrize("kernel", ["lattice", "nystrom"])
    def test_gradient_points_where_the_exact_one_does(self, kernel: Kernel) -> None:
        image = torch.from_numpy(PHOTOGRAPHS.astronaut()).permute(2, 0, 1)[None].float()
        image = interpolate(image, (48, 48), mode="area")
        logits = interpolate(some(batch=1)[1], (48, 48), mode="bilinear")
        maps = logits.softmax(1).requires_grad_()
        found, exact = (
            torch.autograd.grad(crf_loss(image, maps, kernel=which), maps)[0].flatten() for which in (kernel, "exact")
        )
        assert cosine_similarity(found, exact, dim=0) > 0.99
        through = slope(image, logits, kernel=kernel)
        assert cosine_similarity(through, slope(image, logits, kernel="exact"), dim=0) > 0.98

    @given(batch=st.integers(1, 3), classes=st.integers(1, 4), seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_is_the_mean_of_images_and_blind_to_class_order(self, batch: int, classes: int, seed: int) -> None:
        images, logits = some(batch, classes, seed)
        maps = logits.softmax(1)
        loss = crf_loss(images, maps, weight=1.0)
        each = [crf_loss(images[row : row + 1], maps[row : row + 1], weight=1.0) for row in range(batch)]
        torch.testing.assert_close(loss, torch.stack(each).mean())
        torch.testing.assert_close(loss, crf_loss(images, maps.flip(1), weight=1.0))

    def test_agreement_costs_less(self) -> None:
        images = torch.zeros(1, 3, 6, 8)
        images[..., 4:] = 200
        along, across = torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8)
        along[..., 4:] = 1
        across[:, :, 3:] = 1
        losses = [crf_loss(images, torch.cat([1 - maps, maps], 1)) for maps in (along, across)]
        assert losses[0] < losses[1]

    def test_scale_resizes_first(self) -> None:
        images, logits = some()
        maps = logits.softmax(1)
        small = interpolate(images, scale_factor=0.5), interpolate(maps, scale_factor=0.5, mode="bilinear")
        torch.testing.assert_close(crf_loss(images, maps, scale=0.5), crf_loss(*small, sigma_xy=50.0))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_loses_nothing_to_underflow(self, dtype: torch.dtype) -> None:
        images, logits = some()
        maps = logits.softmax(1).to(dtype).requires_grad_()
        loss = crf_loss(images.to(torch.uint8), maps)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, crf_loss(images, maps.float()))
        assert torch.autograd.grad(1e4 * loss, maps)[0].dtype == dtype

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_a_gpu_gives_the_same(self, kernel: Kernel) -> None:
        images, logits = some()
        torch.testing.assert_close(
            slope(images.cuda(), logits.cuda(), kernel=kernel, weight=1.0).cpu(),
            slope(images, logits, kernel=kernel, weight=1.0),
            rtol=1e-3,
            atol=1e-4,
        )

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_refuses_values_that_are_not_finite(self, which: int, value: str) -> None:
        inputs = some()
        inputs[which][1, 0, 2, 3] = float(value)
        with pytest.raises(ValueError, match=f"expected finite {('images', 'probabilities')[which]}, got 1 of"):
            crf_loss(*inputs)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"weight": -1.0}, "weight >= 0, got -1"),
            ({"scale": 0.0}, "positive scale, got 0"),
            ({"scale": 0.1}, "leaves a pixel, got 0.1"),
            ({"sigma_xy": -3.0}, "sigma_xy=-3"),
            ({"sigma_rgb": float("nan")}, "sigma_rgb=nan"),
            ({"kernel": "gauss"}, "'gauss'"),
        ],
    )
    def test_refuses_other_settings(self, settings: dict[str, Any], message: str) -> None:
        images, logits = some()
        with pytest.raises(ValueError, match=message):
            crf_loss(images, logits.softmax(1), **settings)

    def test_refuses_other_inputs(self) -> None:
        images, logits = some()
        with pytest.raises(ValueError, match="expected images"):
            crf_loss(images, logits[..., 1:])
        with pytest.raises(ValueError, match="not normalised"):
            crf_loss(images / 100 - 1, logits)
        with pytest.raises(TypeError, match="int64"):
            crf_loss(images, logits.long())
