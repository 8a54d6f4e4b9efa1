import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.proposals.pixel_seeds import IGNORE, sample_seeds, seed_regions
from methods.refinement.otsu import otsu_thresholds

Golden = Callable[[str], dict[str, Any]]
ALL = 10**9


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_maps(seed: int, batch: int = 3, height: int = 20, width: int = 23) -> Tensor:
    """Smooth maps, so that their foreground is connected enough to survive an erosion."""
    coarse = torch.rand(batch, 1, 4, 4, generator=drawn(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[:, 0]


class TestSampleSeeds:
    def test_smoke(self) -> None:
        seeds = sample_seeds(torch.rand(2, 30, 40), generator=drawn())
        assert seeds.shape == (2, 30, 40)
        assert seeds.dtype == torch.int64
        assert set(seeds.flatten().tolist()) <= {IGNORE, 0, 1}

    def test_golden_all_candidates(self, golden: Golden) -> None:
        case = golden("fcam_seeds")
        about, maps = case["_meta"], torch.from_numpy(case["cams"])[:, 0]
        assert about["ignore_index"] == IGNORE
        names = [name for name in case if name.startswith("exhaustive")]
        assert len(names) >= 7
        for name in names:
            found = re.fullmatch(r"exhaustive_(noerode_)?p(\d+)_k(\d+)", name)
            assert found, name
            seeds = sample_seeds(
                maps,
                foreground=ALL,
                background=ALL,
                background_share=int(found[2]) / 100,
                erosion=1 if found[1] else about["erode_kernel"],
                dilation=int(found[3]),
                generator=drawn(),
            )
            assert torch.equal(seeds, torch.from_numpy(case[name])), name

    def test_golden_example_has_our_properties(self, golden: Golden) -> None:
        case = golden("fcam_seeds")
        maps, erosion = torch.from_numpy(case["cams"])[:, 0], case["_meta"]["erode_kernel"]
        example = torch.from_numpy(case["example_random_draw"])
        ours = sample_seeds(maps, erosion=erosion, generator=drawn())
        every = sample_seeds(maps, erosion=erosion, foreground=ALL, background=ALL, generator=drawn())
        for seeds in (example, ours):
            constant = otsu_thresholds(maps) == -1
            assert (seeds[constant] == IGNORE).all()
            for label in (0, 1):
                sizes = (seeds == label).sum(dim=(1, 2))
                assert ((sizes <= 9) & ((sizes > 0) | constant)).all()
                assert (every[seeds == label] != 1 - label).all()

    @given(
        seed=st.integers(0, 2**31),
        foreground=st.integers(0, 40),
        background=st.integers(0, 60),
        share=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
        erosion=st.sampled_from([1, 3, 11]),
    )
    @settings(max_examples=25, deadline=None)
    def test_counts_are_exact_and_seeds_lie_in_their_regions(
        self, seed: int, foreground: int, background: int, share: float, erosion: int
    ) -> None:
        maps = random_maps(seed)
        strong, weak = seed_regions(maps, background_share=share, erosion=erosion)
        draw = partial(sample_seeds, maps, background_share=share, erosion=erosion, dilation=1)
        only = draw(foreground=foreground, background=0, generator=drawn(seed))
        assert torch.equal((only == 1).sum(dim=(1, 2)), strong.sum(dim=(1, 2)).clamp(max=foreground))
        assert strong[only == 1].all()
        assert not (only == 0).any()
        only = draw(foreground=0, background=background, generator=drawn(seed))
        assert torch.equal((only == 0).sum(dim=(1, 2)), weak.sum(dim=(1, 2)).clamp(max=background))
        # Among equal values at the end of the lowest ones the generator chooses, so the values decide here.
        assert (maps <= maps.masked_fill(~weak, -1).amax(dim=(1, 2), keepdim=True))[only == 0].all()
        assert not (only == 1).any()

    @pytest.mark.parametrize("dilation", [3, 5])
    def test_squares_of_both_are_ignored(self, dilation: int) -> None:
        maps = random_maps(1)
        alone = sample_seeds(maps, foreground=ALL, background=0, dilation=dilation, generator=drawn()) == 1
        other = sample_seeds(maps, foreground=0, background=ALL, dilation=dilation, generator=drawn()) == 0
        both = sample_seeds(maps, foreground=ALL, background=ALL, dilation=dilation, generator=drawn())
        assert torch.equal(both == 1, alone & ~other)
        assert torch.equal(both == 0, other & ~alone)

    def test_a_drawn_pixel_becomes_a_square(self) -> None:
        maps = random_maps(2, batch=1, height=40, width=40)
        seeds = sample_seeds(maps, background=0, generator=drawn(3))
        rows, columns = (seeds[0] == 1).nonzero().T
        assert len(rows) == 9
        assert rows.max() - rows.min() == columns.max() - columns.min() == 2

    def test_redraws_differ_and_states_repeat(self) -> None:
        maps, generator = random_maps(4), drawn(5)
        first, state = sample_seeds(maps, generator=generator), generator.get_state()
        second = sample_seeds(maps, generator=generator)
        assert not torch.equal(first, second)
        generator.set_state(state)
        assert torch.equal(sample_seeds(maps, generator=generator), second)
        assert torch.equal(sample_seeds(maps, generator=drawn(5)), first)

    def test_leaves_the_global_generator_and_the_maps_alone(self) -> None:
        maps, state = random_maps(6), torch.get_rng_state()
        kept = maps.clone()
        sample_seeds(maps, generator=drawn())
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(maps, kept)

    @pytest.mark.parametrize("tied", [False, True])
    def test_every_candidate_is_equally_likely(self, tied: bool) -> None:
        maps = torch.zeros(2000, 1, 20)
        maps[..., :5] = 0.9
        if not tied:
            maps[..., 5:15] = 0.1
        seeds = sample_seeds(maps, background_share=0.25, erosion=1, dilation=1, generator=drawn(7))[:, 0]
        strong, weak = (seeds == 1).double().mean(dim=0), (seeds == 0).double().mean(dim=0)
        torch.testing.assert_close(strong[:5], torch.full((5,), 0.2, dtype=torch.float64), rtol=0, atol=0.04)
        assert not weak[:5].any()
        candidates = weak[5:] if tied else weak[15:]
        expected = torch.full_like(candidates, 1 / len(candidates))
        torch.testing.assert_close(candidates, expected, rtol=0, atol=0.04)
        assert (seeds == 0).sum() == (seeds == 1).sum() == len(maps)

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_a_constant_map_has_no_seed(self, value: float) -> None:
        maps = torch.stack([torch.full((20, 20), value), torch.rand(20, 20, generator=drawn())])
        seeds = sample_seeds(maps, foreground=ALL, background=ALL, generator=drawn())
        assert (seeds[0] == IGNORE).all()
        assert (seeds[1] != IGNORE).any()

    @pytest.mark.parametrize("shape", [(0, 8, 8), (1, 1, 1), (2, 1, 9), (3, 2, 5)])
    def test_sizes(self, shape: tuple[int, ...]) -> None:
        assert sample_seeds(torch.rand(shape), generator=drawn()).shape == shape

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_precisions(self, dtype: torch.dtype) -> None:
        assert (sample_seeds(random_maps(8).to(dtype), generator=drawn()) != IGNORE).any()

    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_refuses_values_that_are_not_finite(self, value: str) -> None:
        maps = torch.rand(1, 4, 4)
        maps[0, 1, 2] = float(value)
        with pytest.raises(ValueError, match="not finite"):
            sample_seeds(maps, generator=drawn())

    @pytest.mark.parametrize("count", ["foreground", "background"])
    def test_refuses_negative_counts(self, count: str) -> None:
        with pytest.raises(ValueError, match=f"negative.*{count}=-1"):
            sample_seeds(torch.rand(1, 4, 4), generator=drawn(), **{count: -1})

    @pytest.mark.parametrize("side", ["erosion", "dilation"])
    @pytest.mark.parametrize("value", [0, 4, -3])
    def test_refuses_even_sides(self, side: str, value: int) -> None:
        with pytest.raises(ValueError, match=rf"odd {side}.*got {value}"):
            sample_seeds(torch.rand(1, 4, 4), generator=drawn(), **{side: value})


class TestSeedRegions:
    def test_smoke(self) -> None:
        strong, weak = seed_regions(torch.rand(2, 30, 40))
        assert strong.shape == weak.shape == (2, 30, 40)
        assert strong.dtype == weak.dtype == torch.bool

    def test_golden(self, golden: Golden) -> None:
        case = golden("fcam_seeds")
        maps = torch.from_numpy(case["cams"])[:, 0]
        assert torch.equal(otsu_thresholds(maps), torch.from_numpy(case["otsu_threshold"]))
        whole, _ = seed_regions(maps, erosion=1)
        assert torch.equal(whole, torch.from_numpy(case["roi"]).bool())
        eroded, _ = seed_regions(maps, erosion=case["_meta"]["erode_kernel"])
        assert torch.equal(eroded, torch.from_numpy(case["roi_eroded"]).bool())

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        known = {"cams", "otsu_threshold", "roi", "roi_eroded", "example_random_draw", "_meta"}
        assert known == {name for name in golden("fcam_seeds") if not name.startswith("exhaustive_")}

    @given(seed=st.integers(0, 2**31), share=st.floats(0, 1), levels=st.sampled_from([2, 7, 255]))
    @settings(max_examples=25, deadline=None)
    def test_background_is_exactly_the_lowest(self, seed: int, share: float, levels: int) -> None:
        maps = (random_maps(seed) * levels).round() / levels
        maps[:, 0, :2] = torch.tensor([0.0, 1.0])
        for generator in (None, drawn(seed)):
            _, weak = seed_regions(maps, background_share=share, generator=generator)
            assert weak.sum(dim=(1, 2)).tolist() == [int(share * 20 * 23)] * len(maps)
            for values, mask in zip(maps, weak):
                if 0 < mask.sum() < mask.numel():
                    assert values[mask].max() <= values[~mask].min()

    def test_equal_values_without_a_generator_go_in_raster_order(self) -> None:
        maps = torch.zeros(1, 4, 5)
        maps[0, 0, 0] = 1
        _, weak = seed_regions(maps, background_share=0.25)
        assert weak.flatten().nonzero().flatten().tolist() == [1, 2, 3, 4, 5]

    def test_the_border_does_not_erode(self) -> None:
        maps = torch.zeros(1, 30, 30)
        maps[0, :20, :15] = 1
        strong, _ = seed_regions(maps)
        expected = torch.zeros(1, 30, 30, dtype=torch.bool)
        expected[0, :15, :10] = True
        assert torch.equal(strong, expected)

    def test_a_region_that_would_vanish_stays(self) -> None:
        maps = torch.zeros(2, 30, 30)
        maps[0, 10:20, 10:20] = 1
        maps[1, 10:21, 10:21] = 1
        strong, _ = seed_regions(maps)
        assert strong.sum(dim=(1, 2)).tolist() == [100, 1]
        assert strong[1, 15, 15]

    def test_background_may_lie_in_the_foreground(self) -> None:
        maps = torch.full((1, 10, 10), 0.9)
        maps[0, 0, 0] = 0
        strong, weak = seed_regions(maps, background_share=0.5, erosion=1)
        assert (strong & weak).sum() == 49

    def test_a_map_with_one_level_has_no_region(self) -> None:
        maps = torch.linspace(0.5, 0.501, 100).view(1, 10, 10)
        strong, weak = seed_regions(maps)
        assert not strong.any()
        assert not weak.any()

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_refuses_other_shares(self, share: float) -> None:
        with pytest.raises(ValueError, match=r"share in 0\.\.1"):
            seed_regions(torch.rand(1, 4, 4), background_share=share)

    def test_refuses_other_dimensions(self) -> None:
        with pytest.raises(ValueError, match=r"got shape \(1, 1, 4, 4\)"):
            seed_regions(torch.rand(1, 1, 4, 4))

    def test_refuses_integers(self) -> None:
        with pytest.raises(TypeError, match="uint8"):
            seed_regions(torch.zeros(1, 4, 4, dtype=torch.uint8))
