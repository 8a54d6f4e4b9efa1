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

Golden = Callable[[str], dict[str, Any]]
PHOTOGRAPHS: Any = skimage.data
KERNELS: list[Kernel] = ["lattice", "exact", "nystrom"]


def natural(side: int = 48) -> tuple[Tensor, Tensor]:
    """A natural image and smooth probabilities of two classes."""
    image = torch.from_numpy(PHOTOGRAPHS.astronaut()).permute(2, 0, 1)[None].float()
    low = 2 * torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = interpolate(low, (side, side), mode="bilinear").softmax(1)
    return interpolate(image, (side, side), mode="area"), smooth


def scaled(case: dict[str, Any], about: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Image and probabilities of a golden configuration, resized as it says."""
    image, maps = torch.from_numpy(case["image"]), torch.from_numpy(case["logits"]).softmax(1)
    factor = about["scale_factor"]
    if factor == 1:
        return image, maps
    return interpolate(image, scale_factor=factor), interpolate(maps, scale_factor=factor, mode="bilinear")


class TestBilateralFilter:
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_smoke(self, kernel: Kernel) -> None:
        sums = bilateral_filter(255 * torch.rand(2, 3, 6, 7), torch.rand(2, 4, 6, 7), kernel=kernel)
        assert sums.shape == (2, 4, 6, 7)
        assert sums.dtype == torch.float32

    @pytest.mark.parametrize(
        ("kernel", "array", "tolerance"), [("lattice", "filtered", 2e-6), ("exact", "filtered_exact", 1e-5)]
    )
    def test_golden(self, golden: Golden, kernel: Kernel, array: str, tolerance: float) -> None:
        case = golden("crf_loss")
        for name, about in case["_meta"]["configs"].items():
            image, maps = scaled(case, about)
            sigma_xy = about["sigma_xy"] * about["scale_factor"]
            sums = bilateral_filter(image, maps, sigma_rgb=about["sigma_rgb"], sigma_xy=sigma_xy, kernel=kernel)
            expected = torch.from_numpy(case[f"{name}_{array}"])
            torch.testing.assert_close(sums, expected, rtol=0, atol=tolerance * float(expected.max()))

    @pytest.mark.parametrize("kernel", ["lattice", "nystrom"])
    def test_goes_where_the_exact_sums_go(self, kernel: Kernel) -> None:
        image, maps = natural()
        exact, sums = bilateral_filter(image, maps, kernel="exact"), bilateral_filter(image, maps, kernel=kernel)
        assert cosine_similarity(sums.flatten(), exact.flatten(), dim=0) > 0.99
        # Through a softmax of two classes only the difference of the sums moves anything.
        moves, exactly = (sums[:, 0] - sums[:, 1]).flatten(), (exact[:, 0] - exact[:, 1]).flatten()
        assert cosine_similarity(moves, exactly, dim=0) > (0.999 if kernel == "nystrom" else 0.98)
        ratio = float(sums.norm() / exact.norm())
        assert 0.99 < ratio < 1.01 if kernel == "nystrom" else 0.45 < ratio < 0.65

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_images_and_channels_do_not_mix(self, kernel: Kernel) -> None:
        images, maps = 255 * torch.rand(2, 3, 5, 6), torch.rand(2, 3, 5, 6)
        sums = bilateral_filter(images, maps, kernel=kernel)
        torch.testing.assert_close(bilateral_filter(images[1:], maps[1:, 2:], kernel=kernel), sums[1:, 2:])

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_exact_kernel_is_symmetric_and_counts_itself(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        image = 255 * torch.rand(1, 3, 4, 5, generator=generator)
        matrix = bilateral_filter(image, torch.eye(20).view(1, 20, 4, 5), kernel="exact").view(20, 20)
        torch.testing.assert_close(matrix, matrix.T)
        torch.testing.assert_close(matrix.diagonal(), torch.ones(20))

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_colours_keep_apart(self, kernel: Kernel) -> None:
        """Nothing crosses from a black half to a white one."""
        image = torch.zeros(1, 3, 4, 6)
        image[..., 3:] = 255
        maps = torch.zeros(1, 1, 4, 6)
        maps[..., :3] = 1
        sums = bilateral_filter(image, maps, kernel=kernel)
        assert sums[..., :3].min() > 5
        assert sums[..., 3:].abs().max() < 1e-3

    def test_takes_bytes_and_half_precision(self) -> None:
        image, maps = natural(16)
        image = image.round()
        expected = bilateral_filter(image, maps.half().float())
        assert torch.equal(bilateral_filter(image.to(torch.uint8), maps.half()), expected)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_has_no_gradient(self, kernel: Kernel) -> None:
        image, maps = natural(8)
        assert not bilateral_filter(image.requires_grad_(), maps.requires_grad_(), kernel=kernel).requires_grad

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_a_gpu_gives_the_same(self, kernel: Kernel) -> None:
        image, maps = natural()
        sums = bilateral_filter(image.cuda(), maps.cuda(), kernel=kernel)
        assert sums.is_cuda
        tolerance = 0.0 if kernel == "lattice" else 1e-3
        torch.testing.assert_close(sums.cpu(), bilateral_filter(image, maps, kernel=kernel), rtol=tolerance, atol=0)

    def test_refuses_values_that_are_not_finite(self) -> None:
        image, maps = natural(4)
        maps[0, 1, 2, 3] = torch.nan
        with pytest.raises(ValueError, match="finite values, got 1 of 32"):
            bilateral_filter(image, maps)

    @pytest.mark.parametrize(("low", "high"), [(-2.1, 2.6), (0.0, 256.0)])
    def test_refuses_images_outside_their_range(self, low: float, high: float) -> None:
        with pytest.raises(ValueError, match=rf"0\.\.255, not normalised, got {low:.4g}\.\.{high:.4g}"):
            bilateral_filter(torch.linspace(low, high, 12).view(1, 3, 2, 2), torch.rand(1, 2, 2, 2))

    @pytest.mark.parametrize("shape", [(2, 2, 3, 4), (1, 2, 3, 5), (1, 2, 4, 4), (2, 3, 4), (1, 0, 3, 4)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected images"):
            bilateral_filter(torch.zeros(1, 3, 3, 4), torch.zeros(shape))

    def test_refuses_other_settings(self) -> None:
        image, maps = natural(4)
        with pytest.raises(ValueError, match="'gauss'"):
            bilateral_filter(image, maps, kernel="gauss")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="sigma_rgb=0"):
            bilateral_filter(image, maps, sigma_rgb=0)
        with pytest.raises(TypeError, match="int64"):
            bilateral_filter(image, maps.long())
