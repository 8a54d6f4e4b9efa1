import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from methods.training.multi_crop import Jitter, blurred, cut, draw_windows, multi_crop, relight

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4, height: int = 20, width: int = 24) -> Tensor:
    return torch.rand(count, 3, height, width, generator=seeded(7))


class TestMultiCrop:
    def test_smoke(self) -> None:
        views = multi_crop(pictures(), 8, (0.1, 0.9), seeded(), count=5, jitter=Jitter())
        assert views.shape == (5, 4, 3, 8, 8)
        assert views.min() >= 0
        assert views.max() <= 1

    def test_the_generator_alone_decides(self) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one, same, other = (multi_crop(pictures(), 8, (0.1, 0.9), seeded(s), jitter=Jitter()) for s in (3, 3, 4))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), before)

    def test_images_and_views_differ(self) -> None:
        views = multi_crop(pictures(1).expand(3, -1, -1, -1), 8, (0.1, 0.9), seeded(), count=2).flatten(0, 1)
        assert len({tuple(one.ravel().tolist()) for one in views}) == 6

    def test_no_view(self) -> None:
        assert multi_crop(pictures(), 8, (0.1, 0.9), seeded(), count=0).shape == (0, 4, 3, 8, 8)

    def test_keeps_precision(self) -> None:
        assert multi_crop(pictures().double(), 8, (0.1, 0.9), seeded(), jitter=Jitter()).dtype == torch.float64

    @pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected floating point images \[B, 3, H, W\]"):
            multi_crop(torch.rand(shape), 4, (0.1, 0.9), seeded())

    def test_refuses_integers(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            multi_crop(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 4, (0.1, 0.9), seeded())

    @pytest.mark.parametrize("scale", [(0.0, 0.5), (0.5, 0.4), (0.5, 1.1)])
    def test_refuses_shares(self, scale: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="0 < low <= high <= 1"):
            multi_crop(pictures(), 4, scale, seeded())


class TestDrawWindows:
    @given(seed=st.integers(0, 2**31), height=st.integers(4, 400), width=st.integers(4, 400), low=st.floats(0.01, 1))
    @settings(max_examples=25, deadline=None)
    def test_windows_lie_inside(self, seed: int, height: int, width: int, low: float) -> None:
        x, y, half_x, half_y = (
            draw_windows(20, (height, width), (low, 1.0), seeded(seed), vertical=True).abs().unbind(1)
        )
        assert (x + half_x <= 1 + 1e-6).all()
        assert (y + half_y <= 1 + 1e-6).all()

    def test_areas_and_shapes(self) -> None:
        # Half extents of -1..1: their product is the share of the area.
        windows = draw_windows(4000, (30, 40), (0.1, 0.4), seeded(), vertical=False)
        area, ratio = windows[:, 2].abs() * windows[:, 3], windows[:, 2].abs() * 40 / (windows[:, 3] * 30)
        assert 0.1 - 1e-4 <= area.min() < 0.11
        assert 0.39 < area.max() <= 0.4 + 1e-4
        assert area.mean().item() == pytest.approx(0.25, abs=0.01)
        assert ratio.log().mean().item() == pytest.approx(0, abs=0.02)
        assert 0.75 - 1e-4 <= ratio.min() < 0.77
        assert 1.30 < ratio.max() <= 4 / 3 + 1e-4

    @pytest.mark.parametrize("vertical", [False, True])
    def test_flips(self, vertical: bool) -> None:
        windows = draw_windows(2000, (30, 30), (0.1, 0.4), seeded(), vertical=vertical)
        mirrored, upside = (windows[:, 2:] < 0).double().mean(dim=0).tolist()
        assert mirrored == pytest.approx(0.5, abs=0.05)
        assert upside == pytest.approx(0.5 if vertical else 0.0, abs=0.05)


class TestCut:
    def test_the_whole_is_the_image(self) -> None:
        images = pictures(1, 16, 16)
        torch.testing.assert_close(cut(images, WHOLE, 16), images)

    def test_a_quarter(self) -> None:
        images = pictures(1, 16, 16)
        torch.testing.assert_close(cut(images, torch.tensor([[0.5, -0.5, 0.5, 0.5]]), 8), images[:, :, :8, 8:])

    def test_negative_extents_flip(self) -> None:
        images = pictures(1, 16, 16)
        torch.testing.assert_close(cut(images, WHOLE * torch.tensor([1, 1, -1, 1]), 16), images.flip(3))
        torch.testing.assert_close(cut(images, WHOLE * torch.tensor([1, 1, 1, -1]), 16), images.flip(2))

    def test_enlarges_as_torch_does(self) -> None:
        images = pictures(1, 9, 9)
        expected = interpolate(images, (21, 21), mode="bilinear", align_corners=False)
        torch.testing.assert_close(cut(images, WHOLE, 21), expected)


class TestRelight:
    def test_nothing_to_change(self) -> None:
        torch.testing.assert_close(relight(pictures(), Jitter(0, 0, 0), seeded()), pictures())

    def test_grey(self) -> None:
        views = relight(pictures(), Jitter(0, 1, 0), seeded())
        torch.testing.assert_close(views, (pictures() * GREY).sum(dim=1, keepdim=True).expand_as(views))

    def test_brightness_and_contrast_stay_within_bounds(self) -> None:
        images = 0.4 + 0.2 * pictures(500, 6, 6)
        views = relight(images, Jitter(0.4, 1, 0), seeded())
        grey = (images * GREY).sum(dim=1)
        factor = views[:, 0].mean(dim=(1, 2)) / grey.mean(dim=(1, 2))
        spread = views[:, 0].std(dim=(1, 2)) / grey.std(dim=(1, 2)) / factor
        for one in (factor, spread):
            assert 0.6 - 1e-4 <= one.min() < 0.65
            assert 1.35 < one.max() <= 1.4 + 1e-3

    def test_dark_and_bright_change_places(self) -> None:
        torch.testing.assert_close(relight(pictures(), Jitter(0, 0, 0, invert=1), seeded()), 1 - pictures())
        views = relight(torch.zeros(400, 3, 2, 2), Jitter(0, 0, 0, invert=0.5), seeded())
        assert views.mean().item() == pytest.approx(0.5, abs=0.1)

    def test_only_some_are_blurred(self) -> None:
        images = pictures(1).expand(200, -1, -1, -1)
        views = relight(images, Jitter(0, 0, 0.5), seeded())
        changed = ((views - images).abs().amax(dim=(1, 2, 3)) > 1e-4).double().mean().item()
        assert changed == pytest.approx(0.5, abs=0.1)

    @pytest.mark.parametrize("wrong", [{"strength": 1.5}, {"grey": -0.1}, {"blur": 2.0}, {"invert": -1.0}])
    def test_refuses(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=r"in 0\.\.1"):
            Jitter(**wrong)


class TestBlurred:
    def test_a_point_becomes_a_gaussian(self) -> None:
        point = torch.zeros(2, 1, 11, 11)
        point[:, :, 5, 5] = 1
        sigmas = torch.tensor([0.8, 1.5])
        found = blurred(point, sigmas)
        for one, sigma in zip(found[:, 0], sigmas):
            line = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / (2 * sigma**2))
            line = line / line.sum()
            torch.testing.assert_close(one[1:10, 1:10], line[:, None] * line[None])

    def test_an_even_image_stays(self) -> None:
        even = torch.full((2, 3, 5, 6), 0.3)
        torch.testing.assert_close(blurred(even, torch.tensor([0.1, 2.0])), even)
