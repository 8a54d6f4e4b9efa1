from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.refinement.canny import canny

Golden = Callable[[str], dict[str, Any]]


def _smooth(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Blurred noise: edges of every direction and strength."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    soft = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)
    return (255 * (soft - soft.min()) / (soft.max() - soft.min())).to(torch.uint8)


def _opencv(image: Tensor) -> Tensor:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.shape[2] == 3 else pixels[..., 0]
    return torch.from_numpy(cv2.Canny(cv2.GaussianBlur(grey, (5, 5), 0), 10, 100)) > 0


class TestCanny:
    def test_smoke(self) -> None:
        edges = canny(_smooth(0, (2, 3, 20, 30)))
        assert edges.shape == (2, 20, 30)
        assert edges.dtype == torch.bool
        assert edges.any()

    def test_golden(self, golden: Golden) -> None:
        case = golden("edge_predict")
        images = torch.from_numpy(case["image_rgb"]).permute(0, 3, 1, 2)
        assert torch.equal(canny(images), torch.from_numpy(case["canny_reference"]) > 0)

    @pytest.mark.parametrize("shape", [(3, 1, 64, 80), (3, 3, 64, 80), (2, 3, 3, 4000), (4, 1, 5, 3)])
    def test_agrees_with_opencv(self, shape: tuple[int, ...]) -> None:
        for seed in range(3):
            images = _smooth(seed, shape)
            assert torch.equal(canny(images), torch.stack([_opencv(image) for image in images]))

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2)])
    def test_tiny_images_agree_with_opencv(self, height: int, width: int) -> None:
        images = torch.randint(0, 256, (8, 1, height, width), generator=torch.Generator().manual_seed(1)).byte()
        assert torch.equal(canny(images), torch.stack([_opencv(image) for image in images]))

    @given(value=st.integers(0, 255), channels=st.sampled_from([1, 3]))
    @settings(max_examples=10, deadline=None)
    def test_flat_images_have_no_edge(self, value: int, channels: int) -> None:
        assert not canny(torch.full((1, channels, 5, 6), value, dtype=torch.uint8)).any()

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_grey_as_rgb_is_the_same(self, seed: int) -> None:
        images = _smooth(seed, (2, 1, 12, 15))
        assert torch.equal(canny(images), canny(images.expand(2, 3, 12, 15)))

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_one_image_at_a_time_is_the_same(self, seed: int) -> None:
        images = _smooth(seed, (3, 3, 9, 11))
        assert torch.equal(canny(images), torch.cat([canny(image[None]) for image in images]))

    def test_weak_edges_need_a_strong_pixel(self) -> None:
        image = torch.zeros(1, 1, 12, 40, dtype=torch.uint8)
        image[..., 20:] = 10
        assert not canny(image).any()
        image[..., :6, 20:] = 200
        assert canny(image)[0, :3].any(dim=1).all()

    @pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 1, 0, 5), (2, 3, 4, 0)])
    def test_empty(self, shape: tuple[int, ...]) -> None:
        assert canny(torch.zeros(shape, dtype=torch.uint8)).shape == (shape[0], *shape[2:])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
    def test_refuses_other_dtypes(self, dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match="expected uint8 images"):
            canny(torch.zeros(1, 3, 4, 4, dtype=dtype))

    @pytest.mark.parametrize("shape", [(3, 4, 4), (1, 2, 4, 4), (1, 4, 4, 3)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\]"):
            canny(torch.zeros(shape, dtype=torch.uint8))
