import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn.functional import max_pool2d

from methods.proposals import IGNORE, sample_pixels
from methods.proposals.sample_pixels import in_boxes

Golden = Callable[[str], dict[str, Any]]
ALL = 10**9
NOTHING: dict[str, Any] = {"foreground": 0, "background": 0, "foreground_share": 1.0, "background_share": 1.0}


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case_of(golden: Golden) -> tuple[dict[str, Any], Tensor, Tensor]:
    case = golden("dips")
    return case, torch.from_numpy(case["seed_cam"])[:, 0], torch.from_numpy(case["seed_roi_boxes"])


class TestSamplePixels:
    def test_smoke(self) -> None:
        boxes = torch.tensor([[0, 0, 5, 5], [3, 2, 20, 12]])
        draws: dict[str, Any] = {"foreground": 4, "background": 6, "foreground_share": 0.5, "background_share": 0.3}
        seeds = sample_pixels(torch.rand(2, 16, 20), boxes, **draws, generator=drawn())
        assert seeds.shape == (2, 16, 20)
        assert seeds.dtype == torch.int64
        assert set(seeds.flatten().tolist()) <= {IGNORE, 0, 1}

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        maps = {"cls_attention", "otsu_threshold", "binary", "mix_image", "mix_blur_sigma9", "seed_cam", "_meta"}
        boxes = {"all_boxes_b_head_xyxy", "selected_minsize1000_b_head_xyxy_anyok", "footprint_boxes", "seed_roi_boxes"}
        others = {name for name in golden("dips") if not name.startswith(("maps_", "exhaustive_", "inclusion_freq_"))}
        assert others == maps | boxes | {"footprint_masks"}

    def test_golden_all_candidates(self, golden: Golden) -> None:
        case, maps, boxes = case_of(golden)
        names = [name for name in case if name.startswith("exhaustive")]
        assert len(names) > 3
        for name in names:
            found = re.fullmatch(r"exhaustive_minp(\d+)_maxp(\d+)_k(\d+)", name)
            assert found, name
            seeds = sample_pixels(
                maps,
                boxes + torch.tensor([0, 0, 1, 1]),
                foreground=ALL,
                background=ALL,
                foreground_share=int(found[2]) / 1000,
                background_share=int(found[1]) / 1000,
                dilation=int(found[3]),
                generator=drawn(),
            )
            assert torch.equal(seeds, torch.from_numpy(case[name]).long()), name

    @pytest.mark.parametrize("what", ["fg", "bg"])
    def test_golden_frequencies(self, golden: Golden, what: str) -> None:
        """The case draws from the first image, .3 of its box and .3 of its pixels."""
        case, maps, boxes = case_of(golden)
        (name,) = (name for name in case if name.startswith(f"inclusion_freq_{what}"))
        times, count = map(int, re.findall(r"\d+", name))
        expected = torch.from_numpy(case[name]).double()
        assert expected.sum() == times * count
        draws = {**NOTHING, "foreground_share": 0.3, "background_share": 0.3}
        draws["foreground" if what == "fg" else "background"] = count
        many: dict[str, Any] = {
            "maps": maps[:1].expand(times, -1, -1),
            "boxes": boxes[:1].expand(times, -1) + torch.tensor([0, 0, 1, 1]),
        }
        seeds = sample_pixels(**many, **draws, dilation=1, generator=drawn())
        ours = (seeds == int(what == "fg")).sum(dim=0).double()
        assert ours.sum() == times * count
        assert torch.corrcoef(torch.stack([ours.flatten(), expected.flatten()]))[0, 1] > 0.6
        # Groups of candidates by value: sums agree within the spread of two draws.
        sure = (expected > 0) | (ours > 0)
        groups = maps[0][sure].argsort().chunk(8)
        for group in groups:
            first, second = ours[sure][group].sum(), expected[sure][group].sum()
            assert (first - second).abs() < 5 * (first + second).sqrt()

    @given(
        seed=st.integers(0, 2**31),
        foreground=st.integers(0, 200),
        background=st.integers(0, 200),
        foreground_share=st.floats(0, 1),
        background_share=st.floats(0, 1),
    )
    @settings(max_examples=25, deadline=None)
    def test_counts_are_exact_and_pixels_are_candidates(
        self, seed: int, foreground: int, background: int, foreground_share: float, background_share: float
    ) -> None:
        maps = torch.rand(2, 9, 14, generator=drawn(seed))
        boxes = torch.tensor([[2, 1, 9, 8], [0, 0, 14, 9]])
        shares = {"foreground_share": foreground_share, "background_share": background_share}
        alone: dict[str, Any] = {"maps": maps, "boxes": boxes, "dilation": 1, **shares}
        strong = sample_pixels(**alone, foreground=foreground, background=0, generator=drawn(seed)) == 1
        weak = sample_pixels(**alone, foreground=0, background=background, generator=drawn(seed)) == 0
        for image, area in enumerate((49, 126)):
            assert strong[image].sum() == min(foreground, int(foreground_share * area))
            assert weak[image].sum() == min(background, int(background_share * 126))
            lowest = maps[image].flatten().sort().values[: int(background_share * 126)]
            assert set(maps[image][weak[image]].tolist()) <= set(lowest.tolist())
        assert not (strong & ~in_boxes(boxes, (9, 14))).any()

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_squares_that_meet_are_ignored(self, seed: int) -> None:
        maps, boxes = torch.rand(2, 12, 12, generator=drawn(seed)), torch.tensor([[0, 0, 12, 12], [4, 4, 8, 8]])
        draws = {**NOTHING, "foreground": 5, "background": 7}
        seeds = sample_pixels(maps, boxes, **draws, dilation=3, generator=drawn(seed))
        strong = sample_pixels(maps, boxes, **{**draws, "background": 0}, dilation=1, generator=drawn(seed)) == 1
        weak = sample_pixels(maps, boxes, **{**draws, "foreground": 0}, dilation=1, generator=drawn(seed)) == 0
        strong, weak = (max_pool2d(one.float(), 3, stride=1, padding=1).bool() for one in (strong, weak))
        assert torch.equal(seeds == 1, strong & ~weak)
        assert torch.equal(seeds == 0, weak & ~strong)

    def test_frequencies_of_one_draw(self) -> None:
        weights = torch.tensor([[[0.5, 0.1, 0.2], [0.9, 0.0, 0.3]]])
        times = 6000
        seeds = sample_pixels(
            weights.expand(times, -1, -1),
            torch.tensor([[0, 0, 3, 2]]).expand(times, -1),
            **{**NOTHING, "foreground": 1},
            dilation=1,
            generator=drawn(),
        )
        counts = (seeds == 1).sum(dim=0).flatten().double().numpy()
        shares = (weights / weights.sum()).flatten().double().numpy()
        assert counts[shares == 0] == 0
        kept = shares > 0
        assert stats.chisquare(counts[kept], times * shares[kept] / shares[kept].sum()).pvalue > 1e-3

    def test_frequencies_of_pairs(self) -> None:
        """Without replacement: p_i p_j (1 / (1 - p_i) + 1 / (1 - p_j)) for the pair i, j."""
        weights, times = torch.tensor([[[0.5, 0.1, 0.2, 0.9]]]), 6000
        seeds = sample_pixels(
            weights.expand(times, -1, -1),
            torch.tensor([[0, 0, 4, 1]]).expand(times, -1),
            **{**NOTHING, "foreground": 2},
            dilation=1,
            generator=drawn(),
        )
        codes = ((seeds == 1)[:, 0].long() * torch.tensor([1, 2, 4, 8])).sum(dim=1)
        p = (weights / weights.sum()).flatten().double().numpy()
        pairs = [(i, j) for i in range(4) for j in range(i)]
        counts = [int((codes == 2**i + 2**j).sum()) for i, j in pairs]
        expected = np.array([times * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in pairs])
        assert sum(counts) == times
        assert stats.chisquare(counts, expected * times / expected.sum()).pvalue > 1e-3

    def test_background_is_uniform(self) -> None:
        maps, times = torch.rand(1, 3, 4, generator=drawn(3)), 6000
        draws = {**NOTHING, "background": 2, "background_share": 0.5}
        boxes = torch.tensor([[0, 0, 1, 1]]).expand(times, -1)
        seeds = sample_pixels(maps.expand(times, -1, -1), boxes, **draws, dilation=1, generator=drawn())
        counts = (seeds == 0).sum(dim=0).flatten()
        assert (counts > 0).sum() == 6
        assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3

    def test_equal_values_are_drawn_everywhere(self) -> None:
        times = 600
        for label, draws in ((1, {"foreground": 3}), (0, {"background": 3})):
            shares = {"foreground_share": 0.25, "background_share": 0.25}
            seeds = sample_pixels(
                torch.full((times, 3, 4), 0.5),
                torch.tensor([[0, 0, 4, 3]]).expand(times, -1),
                **{**NOTHING, **shares, **draws},
                dilation=1,
                generator=drawn(),
            )
            counts = (seeds == label).sum(dim=0).flatten()
            assert counts.sum() == 3 * times
            assert stats.chisquare(counts.numpy()).pvalue > 1e-3

    @pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
    def test_pixels_without_weight_come_last(self, count: int, expected: int) -> None:
        maps, box = torch.tensor([[[0.0, 0.2, 0.0, 0.1]]]), torch.tensor([[0, 0, 4, 1]])
        seeds = sample_pixels(maps, box, **{**NOTHING, "foreground": count}, dilation=1, generator=drawn())
        assert (seeds == 1).sum() == expected
        assert (seeds == 1)[maps > 0].sum() == min(count, 2)

    def test_an_empty_box_has_no_foreground(self) -> None:
        boxes = torch.tensor([[3, 3, 3, 5]])
        draws = {**NOTHING, "foreground": 4, "background": 2}
        seeds = sample_pixels(torch.rand(1, 8, 8), boxes, **draws, generator=drawn())
        assert set(seeds.flatten().tolist()) == {IGNORE, 0}

    def test_no_image(self) -> None:
        draws = {**NOTHING, "foreground": 4, "background": 2}
        seeds = sample_pixels(torch.zeros(0, 4, 4), torch.zeros(0, 4, dtype=torch.int64), **draws, generator=drawn())
        assert seeds.shape == (0, 4, 4)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"maps": torch.rand(2, 4, 4)}, "expected maps"),
            ({"maps": torch.rand(1, 1, 4, 4)}, "expected maps"),
            ({"maps": torch.full((1, 4, 4), float("nan"))}, "16 of 16 values"),
            ({"maps": torch.full((1, 4, 4), -1.0)}, "not negative, got -1"),
            ({"foreground": -1}, "numbers of at least 0"),
            ({"background_share": 1.1}, "shares in 0..1"),
            ({"dilation": 2}, "odd dilation, 1 for none, got 2"),
            ({"dilation": -1}, "odd dilation"),
        ],
    )
    def test_refusals(self, changes: dict[str, Any], message: str) -> None:
        given = {"maps": torch.rand(1, 4, 4), "boxes": torch.tensor([[0, 0, 2, 2]]), **NOTHING}
        with pytest.raises(ValueError, match=message):
            sample_pixels(**{**given, **changes}, generator=drawn())


class TestInBoxes:
    def test_areas(self) -> None:
        inside = in_boxes(torch.tensor([[1, 0, 3, 2], [0, 0, 9, 9], [2, 2, 2, 4]]), (5, 4))
        assert inside.flatten(1).sum(dim=1).tolist() == [4, 20, 0]
