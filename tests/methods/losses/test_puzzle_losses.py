import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.losses.puzzle_losses import Level, PuzzleLosses, Region, normalised, puzzle_losses
from methods.training.tiles import TileError, tile

Golden = Callable[[str], dict[str, Any]]
MAPS = {"features", "tiled_features", "re_features", "logits", "labels", "make_cam_features", "make_cam_re"}
LOSSES = {"class_loss", "p_class_loss", "p_class_loss_cam_level", "entropy_loss"} | {
    f"re_loss_{kind}" for kind in ("masking_l1", "masking_l2", "plain_l1", "selection_l1", "cam_level_masking_l1")
}
TILES = {"x", "tiled", "tile_demo_in", "tile_demo_out"}
SCHEDULES = {"alpha_schedule", "hires_in", "hires_norm"} | {
    f"poly_{part}" for part in ("init", "grads", "lrs", "params", "effective_lr_momentum_wd")
}


def _random(seed: int, count: int = 2, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, classes, 4, 6, generator=generator)
    tiles = torch.randn(4 * count, classes, 2, 3, generator=generator)
    return maps, tiles, (torch.rand(count, classes, generator=generator) > 0.5).float()


class TestPuzzleLosses:
    def test_smoke(self) -> None:
        terms = puzzle_losses(*_random(0))
        assert isinstance(terms, PuzzleLosses)
        assert all(term.shape == () and term.isfinite() for term in terms)

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        assert set(golden("puzzle")) == MAPS | LOSSES | TILES | SCHEDULES | {"_meta"}

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ({}, "re_loss_masking_l1"),
            ({"distance": "l2"}, "re_loss_masking_l2"),
            ({"region": "none"}, "re_loss_plain_l1"),
            ({"region": "selection"}, "re_loss_selection_l1"),
            ({"level": "cam"}, "re_loss_cam_level_masking_l1"),
        ],
    )
    def test_golden(self, golden: Golden, options: dict[str, Any], name: str) -> None:
        case = golden("puzzle")
        maps, tiles, labels = (torch.from_numpy(case[key]) for key in ("features", "tiled_features", "labels"))
        pieces = math.isqrt(case["_meta"]["loss_pieces"])
        terms = puzzle_losses(maps, tiles, labels, pieces=pieces, **options)
        merged = "p_class_loss_cam_level" if options.get("level") == "cam" else "p_class_loss"
        expected = [case[key].item() for key in ("class_loss", merged, name, "entropy_loss")]
        assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(maps.mean(dim=(2, 3)), torch.from_numpy(case["logits"]), rtol=1e-6, atol=1e-6)

    def test_the_sum(self) -> None:
        terms = PuzzleLosses(*torch.tensor([1.0, 10.0, 100.0, 1000.0]))
        assert terms.total(4).item() == 411
        assert terms.total(0, entropy=2).item() == 2011

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_equal_maps_differ_by_nothing(self, seed: int) -> None:
        maps, _, labels = _random(seed)
        terms = puzzle_losses(maps, tile(maps, 2), labels)
        assert terms.re_loss == 0
        assert terms.class_loss == terms.p_class_loss

    @given(seed=st.integers(0, 2**31), region=st.sampled_from(["masking", "selection"]))
    @settings(max_examples=10, deadline=None)
    def test_absent_classes_are_not_compared(self, seed: int, region: Region) -> None:
        maps, tiles, labels = _random(seed)
        changed = maps + 5 * (1 - labels)[:, :, None, None]
        one, other = (puzzle_losses(each, tiles, labels, region=region).re_loss for each in (maps, changed))
        assert one == other
        if bool((labels == 0).any()):
            plain, moved = (puzzle_losses(each, tiles, labels, region="none").re_loss for each in (maps, changed))
            assert plain != moved

    @pytest.mark.parametrize("level", get_args(Level))
    @pytest.mark.parametrize("region", get_args(Region))
    def test_both_sides_learn(self, level: Level, region: Region) -> None:
        maps, tiles, _ = _random(1)
        loss = puzzle_losses(
            maps.requires_grad_(), tiles.requires_grad_(), torch.ones(2, 3), level=level, region=region
        )
        gradients = torch.autograd.grad(loss.re_loss, (maps, tiles))
        assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)

    def test_selection_without_a_class(self) -> None:
        maps, tiles, _ = _random(2)
        assert puzzle_losses(maps, tiles, torch.zeros(2, 3), region="selection").re_loss == 0

    def test_half_precision_does_not_overflow(self) -> None:
        maps = torch.full((1, 1, 64, 64), 1000.0, dtype=torch.float16)
        terms = puzzle_losses(maps, torch.zeros(4, 1, 32, 32, dtype=torch.float16), torch.ones(1, 1), distance="l2")
        assert terms.re_loss == 1e6

    @pytest.mark.parametrize("option", ["level", "distance", "region"])
    def test_refuses_unknown_options(self, option: str) -> None:
        with pytest.raises(ValueError, match=f"expected {option} .* got 'other'"):
            puzzle_losses(*_random(0), **{option: "other"})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("maps", "labels"), [((2, 3, 4, 4), (2, 3)), ((2, 3, 4, 6), (2, 1)), ((2, 3, 4, 6), (6,)), ((3, 4, 6), (2, 3))]
    )
    def test_refuses_shapes_that_do_not_agree(self, maps: tuple[int, ...], labels: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"2 x 2 tiles, and labels \[B, K\], got .* \(8, 3, 2, 3\)"):
            puzzle_losses(torch.zeros(maps), torch.zeros(8, 3, 2, 3), torch.zeros(labels))

    def test_refuses_parts_of_images(self) -> None:
        maps, tiles, labels = _random(0)
        with pytest.raises(TileError, match="divisible by 4"):
            puzzle_losses(maps, tiles[:7], labels)


class TestNormalised:
    def test_golden(self, golden: Golden) -> None:
        case = golden("puzzle")
        for given_name, expected in (("features", "make_cam_features"), ("re_features", "make_cam_re")):
            found = normalised(torch.from_numpy(case[given_name]))
            torch.testing.assert_close(found, torch.from_numpy(case[expected]), rtol=0, atol=1e-6)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_range(self, seed: int) -> None:
        found = normalised(_random(seed)[0])
        assert found.min() >= 0
        assert found.max() < 1

    def test_nothing_positive(self) -> None:
        assert not normalised(-torch.rand(1, 2, 3, 3)).any()
