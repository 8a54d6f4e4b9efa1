from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from methods.activation.multi_scale import Decoded, MultiScaleMaps, divided_by_maximum, multi_scale, multi_scale_decode

Golden = Callable[[str], dict[str, Any]]


def pictures(count: int = 2, height: int = 40, width: int = 36) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(5))


def strided(views: Tensor) -> Tensor:
    """Class maps of a grid of 4 pixels, that see left and right."""
    ramp = torch.linspace(-1, 1, views.shape[-1])
    return avg_pool2d(torch.cat([views, (views * ramp)[:, :1]], dim=1), 4, ceil_mode=True)


def decoder(views: Tensor) -> tuple[Tensor, Tensor]:
    maps = strided(views)
    return maps, maps.mean(dim=(2, 3))[:, 1:]


class TestMultiScale:
    def test_smoke(self) -> None:
        found = multi_scale(pictures(), strided)
        assert isinstance(found, MultiScaleMaps)
        assert found.coarse.shape == (2, 4, 10, 9)
        assert found.full.shape == (2, 4, 40, 36)
        assert all(one.dtype == torch.float32 and (one >= 0).all() for one in found)

    def test_one_scale(self) -> None:
        images = pictures()
        found = multi_scale(images, strided, scales=(1,), flip=False)
        positive = strided(images).relu()
        assert torch.equal(found.coarse, positive)
        whole = interpolate(positive, (48, 48), mode="bilinear", align_corners=False)
        assert torch.equal(found.full, whole[..., :40, :36])

    def test_scales_add_up(self) -> None:
        images = pictures()
        parts = [multi_scale(images, strided, scales=(scale,)) for scale in (0.5, 1, 1.5, 2)]
        for one, expected in zip(multi_scale(images, strided), zip(*parts), strict=True):
            torch.testing.assert_close(one, torch.stack(expected).sum(dim=0))

    def test_mirrored_is_mirrored(self) -> None:
        images = pictures(width=48)
        found, mirrored = (multi_scale(each, strided, scales=(0.5, 1)) for each in (images, images.flip(-1)))
        torch.testing.assert_close(mirrored.coarse, found.coarse.flip(-1))
        torch.testing.assert_close(mirrored.full, found.full.flip(-1))
        alone = multi_scale(images.flip(-1), strided, scales=(0.5, 1), flip=False)
        assert not torch.allclose(alone.full, multi_scale(images, strided, scales=(0.5, 1), flip=False).full.flip(-1))

    @pytest.mark.parametrize("scale", [0.5, 1.5, 2])
    def test_resizes_as_pillow(self, scale: float) -> None:
        image = np.random.default_rng(0).random((20, 26)).astype(np.float32)
        size = round(26 * scale), round(20 * scale)
        expected = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        seen: list[Tensor] = []

        def keep(views: Tensor) -> Tensor:
            seen.append(views)
            return views

        multi_scale(torch.from_numpy(image).expand(1, 3, -1, -1), keep, scales=(scale,), flip=False)
        torch.testing.assert_close(seen[0][0, 0], torch.from_numpy(expected), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (16, 17), (5, 64)])
    def test_sizes(self, height: int, width: int) -> None:
        found = multi_scale(pictures(1, height, width), strided, scales=(1, 2))
        assert found.coarse.shape[2:] == ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
        assert found.full.shape[2:] == (height, width)

    def test_no_graph(self) -> None:
        assert not any(one.requires_grad for one in multi_scale(pictures().requires_grad_(), strided))

    def test_half_precision(self) -> None:
        assert multi_scale(pictures(), lambda views: strided(views).bfloat16()).full.dtype == torch.float32

    @pytest.mark.parametrize("scales", [(), (0,), (1, -1), (float("nan"),), (0.01,)])
    def test_refuses_scales(self, scales: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="something is left of 40 x 36 pixels"):
            multi_scale(pictures(), strided, scales=scales)

    @pytest.mark.parametrize("shape", [(3, 4, 4), (0, 3, 4, 4), (1, 3, 0, 4)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="at least one, got shape"):
            multi_scale(torch.zeros(shape), strided)

    def test_refuses_integers(self) -> None:
        with pytest.raises(TypeError, match="uint8"):
            multi_scale(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), strided)

    @pytest.mark.parametrize("wrong", [lambda views: views[0], lambda views: views[:1]])
    def test_refuses_other_class_maps(self, wrong: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(ValueError, match=r"class maps \[n, K, h, w\] of 4 views, got shape"):
            multi_scale(pictures(), wrong)


class TestMultiScaleDecode:
    def test_smoke(self) -> None:
        found = multi_scale_decode(pictures(), decoder)
        assert isinstance(found, Decoded)
        assert found.probabilities.shape == (2, 4, 10, 9)
        assert found.scores.shape == (2, 3)
        torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(2, 10, 9))

    def test_one_scale(self) -> None:
        images = pictures()
        found = multi_scale_decode(images, decoder, scales=(1,), flip=False)
        logits, classes = decoder(images)
        assert torch.equal(found.probabilities, logits.softmax(dim=1))
        assert torch.equal(found.scores, classes.sigmoid())

    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
    def test_is_the_mean_at_the_first_size(self, interpolation: Any) -> None:
        images = pictures()
        found = multi_scale_decode(images, decoder, scales=(1, 2), interpolation=interpolation)
        first, second = (multi_scale_decode(images, decoder, scales=(scale,)) for scale in (1, 2))
        smaller = interpolate(second.probabilities, (10, 9), mode=interpolation)
        torch.testing.assert_close(found.probabilities, (first.probabilities + smaller) / 2)
        torch.testing.assert_close(found.scores, (first.scores + second.scores) / 2)

    def test_mirrored_is_mirrored(self) -> None:
        images = pictures(width=48)
        found, mirrored = (multi_scale_decode(each, decoder, scales=(1,)) for each in (images, images.flip(-1)))
        torch.testing.assert_close(mirrored.probabilities, found.probabilities.flip(-1))
        torch.testing.assert_close(mirrored.scores, found.scores)

    def test_refuses_other_logits(self) -> None:
        with pytest.raises(ValueError, match=r"class logits \[n, K\] of 4 views, got shape \(4, 4, 10, 9\)"):
            multi_scale_decode(pictures(), lambda views: (strided(views), strided(views)), scales=(1,))


class TestDividedByMaximum:
    def test_golden(self, golden: Golden) -> None:
        case = golden("puzzle")
        found = divided_by_maximum(torch.from_numpy(case["hires_in"]))
        torch.testing.assert_close(found, torch.from_numpy(case["hires_norm"]), rtol=0, atol=1e-6)

    def test_absent_classes(self) -> None:
        maps, classes = torch.rand(2, 3, 4, 5) + 1, torch.tensor([[1, 0, 1], [0, 0, 0]])
        found = divided_by_maximum(maps, classes)
        assert not found[classes == 0].any()
        assert (found[classes == 1].amax(dim=(1, 2)) > 0.99).all()

    def test_nothing(self) -> None:
        assert not divided_by_maximum(torch.zeros(1, 2, 3, 3)).any()

    def test_refuses_other_classes(self) -> None:
        with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\) and \(3,\)"):
            divided_by_maximum(torch.rand(2, 3, 4, 5), torch.ones(3))
