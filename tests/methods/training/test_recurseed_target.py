from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from methods.losses.recurseed_losses import activations, recurseed_losses
from methods.refinement import RECURSEED, SLIDES, correlate_levels, pamr, scg
from methods.training.recurseed_target import over_present, recurseed_target, target_labels

Golden = Callable[[str], dict[str, Any]]
Batch = tuple[Tensor, list[Tensor], Tensor, Tensor]


def batch(seed: int = 0, classes: int = 4) -> Batch:
    """Class maps, features of two stages on grids of their own, images and classes."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(3, 8, *size, generator=generator).relu() for size in ((12, 16), (3, 4))]
    known = (torch.rand(3, classes, generator=generator) > 0.5).float()
    maps = torch.randn(3, classes, 6, 8, generator=generator)
    return maps, features, torch.rand(3, 3, 24, 32, generator=generator), known


class TestRecurseedTarget:
    def test_smoke(self) -> None:
        found = recurseed_target(*batch())
        assert found.shape == (3, 4, 6, 8)
        assert found.dtype == torch.float32
        assert ((found >= 0) & (found <= 1)).all()

    def test_golden_scg(self, golden: Golden) -> None:
        case = golden("scg_recurseed")
        maps = torch.from_numpy(case["cams"])
        features = [torch.from_numpy(case[key]) for key in sorted(case) if key.startswith("feat")]
        # Maps whose maximum is far from 1 are stretched here before they are spread.
        classes = (maps.amax(dim=(2, 3)) > 0.99).float()
        found = recurseed_target(maps, features, torch.zeros(len(maps), 3, 4, 4), classes, pamr=False)
        expected = torch.from_numpy(case["scm"]) * classes[:, :, None, None]
        assert classes.any()
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)

    def test_golden_pamr(self, golden: Golden) -> None:
        case = golden("pamr")
        masks, images = (torch.from_numpy(case[key]) for key in ("mask_lowres", "image"))
        classes = torch.ones(masks.shape[:2])
        # PAMR is linear in its maps: dividing them by their maximum before does not matter.
        found = recurseed_target(masks, [], images, classes, scg=False)
        refined = torch.from_numpy(case["run_pamr_out"])
        torch.testing.assert_close(found, refined / refined.amax(dim=(2, 3), keepdim=True), rtol=0, atol=5e-5)

    def test_steps(self) -> None:
        maps, features, images, classes = batch()
        level = [torch.nn.functional.interpolate(one, (6, 8), mode="bilinear") for one in features]
        spread = scg(activations(maps, classes), correlate_levels(level, RECURSEED), foreground=0.3, background=0.05)
        torch.testing.assert_close(recurseed_target(maps, features, images, classes, pamr=False), spread)
        small = torch.nn.functional.interpolate(images, (6, 8), mode="bilinear", align_corners=True)
        refined = pamr(small, spread)
        torch.testing.assert_close(recurseed_target(maps, features, images, classes, rescale=False), refined)
        highest = refined.amax(dim=(2, 3), keepdim=True).clamp(min=1e-5)
        torch.testing.assert_close(recurseed_target(maps, features, images, classes), refined / highest)

    def test_without_refinement_it_is_the_activation(self) -> None:
        maps, _, _, classes = batch()
        found = recurseed_target(maps, [], torch.zeros(0), classes, scg=False, pamr=False)
        assert torch.equal(found, activations(maps, classes))

    def test_a_finer_grid_for_pamr(self) -> None:
        maps, features, images, classes = batch()
        spread = recurseed_target(maps, features, images, classes, pamr=False)
        fine = interpolate(spread, (12, 16), mode="bilinear", align_corners=False)
        small = interpolate(images, (12, 16), mode="bilinear", align_corners=True)
        found = recurseed_target(maps, features, images, classes, grid=(12, 16), rescale=False)
        torch.testing.assert_close(found, pamr(small, fine))
        assert torch.equal(recurseed_target(maps, features, images, classes, pamr=False, grid=(12, 16)), spread)

    def test_other_constants(self) -> None:
        one, other = (recurseed_target(*batch(), constants=constants) for constants in (RECURSEED, SLIDES))
        assert not torch.allclose(one, other)
        less, more = (recurseed_target(*batch(), iterations=count, dilations=(1, 2)) for count in (1, 9))
        assert not torch.allclose(less, more)

    @given(seed=st.integers(0, 2**31), scg=st.booleans(), pamr=st.booleans())
    @settings(max_examples=12, deadline=None)
    def test_absent_classes_never_enter(self, seed: int, scg: bool, pamr: bool) -> None:
        maps, features, images, classes = batch(seed)
        found = recurseed_target(maps, features, images, classes, scg=scg, pamr=pamr)
        absent = classes == 0
        assert (found[absent] == 0).all()
        # Nor do they change what the others become.
        louder = torch.where(absent[:, :, None, None], 9 * maps.abs() + 9, maps)
        assert torch.equal(recurseed_target(louder, features, images, classes, scg=scg, pamr=pamr), found)

    def test_images_do_not_meet(self) -> None:
        together = recurseed_target(*batch())
        maps, features, images, classes = batch()
        for row in range(len(maps)):
            part = slice(row, row + 1)
            alone = recurseed_target(maps[part], [one[part] for one in features], images[part], classes[part])
            torch.testing.assert_close(alone, together[part])

    def test_carries_no_gradient(self) -> None:
        maps, features, images, classes = batch()
        learned = [one.requires_grad_() for one in (maps, *features, images)]
        target = recurseed_target(learned[0], learned[1:-1], learned[-1], classes)
        assert not target.requires_grad
        labels, logits = target_labels(target, (6, 8)), torch.zeros(3, 5, 6, 8)
        recurseed_losses(maps, logits, target, labels, classes).re_loss.backward()  # type: ignore[no-untyped-call]
        assert maps.grad is not None
        assert all(one.grad is None for one in learned[1:])

    def test_autocast_does_not_reach_it(self) -> None:
        expected = recurseed_target(*batch())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(recurseed_target(*batch()), expected)
            assert torch.is_autocast_enabled("cpu")

    def test_maps_of_nothing_stay_zero(self) -> None:
        maps, features, images, classes = batch()
        assert not recurseed_target(-maps.abs(), features, images, classes).any()
        assert not recurseed_target(maps, features, images, torch.zeros_like(classes)).any()

    def test_refuses_nan(self) -> None:
        maps, features, images, _ = batch()
        maps[0, 0, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            recurseed_target(maps, features, images, torch.ones(3, 4))

    @pytest.mark.parametrize("which", range(4))
    def test_refuses_shapes_that_do_not_agree(self, which: int) -> None:
        parts: list[Any] = list(batch())
        parts[which] = [one[:2] for one in parts[1]] if which == 1 else parts[which][:2]
        with pytest.raises(ValueError, match=r"expected class maps \[B, K, h, w\], classes \[B, K\]"):
            recurseed_target(*parts)

    def test_refuses_correlation_of_nothing(self) -> None:
        maps, _, images, classes = batch()
        with pytest.raises(ValueError, match="at least one stage for SCG, got none"):
            recurseed_target(maps, [], images, classes)


class TestTargetLabels:
    def test_golden(self, golden: Golden) -> None:
        case = golden("recurseed_cf_mix")
        maps, classes = torch.from_numpy(case["M_rs"]), torch.from_numpy(case["image_labels"])
        size, meta = (maps.shape[2], maps.shape[3]), case["_meta"]
        bounds = {"foreground": meta["delta_fg"], "background": meta["delta_bg"]}
        paper = {"foreground": meta["delta_fg_paper"], "background": meta["delta_bg_paper"]}
        own = maps * classes[:, :, None, None]
        for given_maps, options, key in (
            (maps, bounds, "cf_labels"),
            (maps, paper, "cf_labels_paper"),
            (own, bounds, "cf_labels_masked_by_image_labels"),
        ):
            assert torch.equal(target_labels(given_maps, size, **options), torch.from_numpy(case[key]))
        if paper == {"foreground": 0.55, "background": 0.1}:
            assert torch.equal(target_labels(maps, size), torch.from_numpy(case["cf_labels_paper"]))

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_absent_classes_never_enter(self, seed: int) -> None:
        maps, features, images, classes = batch(seed)
        target = recurseed_target(maps, features, images, classes)
        for row, known in zip(target_labels(target, (13, 17)), classes, strict=True):
            assert set(row.unique().tolist()) <= {0, 255, *(known.nonzero()[:, 0] + 1).tolist()}

    def test_refuses_what_the_filter_refuses(self) -> None:
        with pytest.raises(ValueError, match=r"background=0\.6, foreground=0\.5"):
            target_labels(torch.rand(1, 1, 2, 2), (4, 4), foreground=0.5, background=0.6)


class TestOverPresent:
    def test_only_as_many_maps_as_an_image_has(self) -> None:
        seen = []
        maps, classes = torch.rand(2, 5, 3, 3), torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]])

        def refine(few: Tensor) -> Tensor:
            seen.append(few)
            return few + 1

        found = over_present(refine, maps, classes)
        assert [tuple(one.shape) for one in seen] == [(2, 2, 3, 3)]
        assert torch.equal(seen[0][0], maps[0, [1, 4]])
        assert not seen[0][1, 1].any()
        assert torch.equal(found, (maps + 1) * classes[:, :, None, None])

    def test_another_size(self) -> None:
        maps, classes = torch.rand(2, 3, 4, 4), torch.tensor([[1, 0, 1], [0, 0, 1]])
        found = over_present(lambda few: interpolate(few, (6, 5)), maps, classes, (6, 5))
        assert torch.equal(found, interpolate(maps * classes[:, :, None, None], (6, 5)))

    def test_no_class_at_all(self) -> None:
        def never(_few: Tensor) -> Tensor:
            raise AssertionError

        assert not over_present(never, torch.rand(2, 3, 2, 2), torch.zeros(2, 3)).any()
