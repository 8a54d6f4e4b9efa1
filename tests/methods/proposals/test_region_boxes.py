from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.proposals import RegionBoxes, all_boxes, footprint, mean_and_heads, propose_boxes
from methods.proposals.region_boxes import footprint_areas
from methods.refinement import component_boxes, otsu_masks, otsu_thresholds

Golden = Callable[[str], dict[str, Any]]


def maps_of(case: dict[str, Any]) -> Tensor:
    return mean_and_heads(torch.from_numpy(case["cls_attention"]), tuple(case["_meta"]["size"]))


def rows(found: RegionBoxes) -> list[tuple[int, ...]]:
    """As the golden case has them: image, map, x0, y0, x_last, y_last."""
    last = found.boxes - torch.tensor([0, 0, 1, 1])
    return [tuple(row) for row in torch.cat([found.image[:, None], found.map[:, None], last], dim=1).tolist()]


def spots(seed: int, images: int = 2, maps: int = 3) -> Tensor:
    coarse = torch.rand(images, maps, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (20, 24), mode="bilinear").clamp(0, 1)


class TestAllBoxes:
    def test_smoke(self) -> None:
        found = all_boxes(spots(0))
        assert found.boxes.dtype == found.image.dtype == found.map.dtype == torch.int64
        assert found.fallback.dtype == torch.bool
        assert len(found.image) == len(found.map) == len(found.boxes) == len(found.fallback) > 0

    def test_golden_masks(self, golden: Golden) -> None:
        case = golden("dips")
        maps = maps_of(case).flatten(0, 1)
        assert torch.equal(otsu_thresholds(maps).float(), torch.from_numpy(case["otsu_threshold"]).flatten())
        assert torch.equal(otsu_masks(maps), torch.from_numpy(case["binary"]).flatten(0, 1).bool())

    def test_golden(self, golden: Golden) -> None:
        case = golden("dips")
        found = rows(all_boxes(maps_of(case)))
        assert len(set(found)) == len(found)
        assert set(found) == set(map(tuple, case["all_boxes_b_head_xyxy"].tolist()))

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_every_map_for_itself(self, seed: int) -> None:
        maps = spots(seed)
        found = all_boxes(maps)
        for image in range(2):
            for number in range(3):
                own = found.boxes[(found.image == image) & (found.map == number)]
                mask = otsu_masks(maps[image, number][None])[0]
                # Holes have boxes of their own there; every box of a part is among them.
                expected = {tuple(box) for box in component_boxes(mask, "all").tolist()}
                assert {tuple(box) for box in own.tolist()} <= expected
                covered = torch.zeros_like(mask)
                for x0, y0, x1, y1 in own.tolist():
                    covered[y0:y1, x0:x1] = True
                assert covered[mask].all()

    def test_corners_touch(self) -> None:
        assert all_boxes(torch.eye(4)[None, None]).boxes.tolist() == [[0, 0, 4, 4]]

    def test_neighbouring_maps_do_not_touch(self) -> None:
        maps = torch.zeros(1, 2, 4, 4)
        maps[0, 0, :2, :2] = maps[0, 1, 1:3, 1:3] = 1
        assert rows(all_boxes(maps)) == [(0, 0, 0, 0, 1, 1), (0, 1, 1, 1, 2, 2)]

    @pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
    def test_constant_maps_have_none(self, value: float) -> None:
        found = all_boxes(torch.full((2, 3, 4, 4), value))
        assert found.boxes.shape == (0, 4)
        assert found.image.shape == found.map.shape == found.fallback.shape == (0,)

    @pytest.mark.parametrize("shape", [(0, 5, 4, 4), (2, 0, 4, 4)])
    def test_no_map(self, shape: tuple[int, ...]) -> None:
        assert all_boxes(torch.zeros(shape)).boxes.shape == (0, 4)
        assert propose_boxes(torch.zeros(shape)).boxes.shape == (0, 4)


class TestProposeBoxes:
    def test_smoke(self) -> None:
        assert set(propose_boxes(spots(0)).image.tolist()) == {0, 1}

    def test_golden(self, golden: Golden) -> None:
        case = golden("dips")
        maps, selected = maps_of(case), case["selected_minsize1000_b_head_xyxy_anyok"].tolist()
        sizes = sorted({row[0] for row in selected})
        assert len(sizes) > 1
        for size in sizes:
            found = propose_boxes(maps, min_size=size / 1000)
            ours = {(*row, int(not flag)) for row, flag in zip(rows(found), found.fallback.tolist(), strict=True)}
            assert ours == {tuple(row[1:]) for row in selected if row[0] == size}, size

    @given(seed=st.integers(0, 2**31), min_size=st.floats(0, 1))
    @settings(max_examples=25, deadline=None)
    def test_large_ones_or_one(self, seed: int, min_size: float) -> None:
        maps = spots(seed)
        every, found = all_boxes(maps), propose_boxes(maps, min_size=min_size)
        areas, kept = (footprint_areas(one.boxes, (20, 24)) for one in (every, found))
        for image in range(2):
            large = areas[(every.image == image) & (areas > min_size * 480)]
            own, flags = kept[found.image == image], found.fallback[found.image == image]
            if len(large):
                assert torch.equal(own, large)
                assert not flags.any()
            else:
                assert own.tolist() == [int(areas[every.image == image].max())]
                assert flags.tolist() == [True]

    def test_of_equal_boxes_the_first_falls_back(self) -> None:
        maps = torch.zeros(1, 2, 9, 9)
        maps[0, :, 4, 1:3] = maps[0, :, 4, 6:8] = 1
        found = propose_boxes(maps, min_size=0.9)
        assert (found.map.tolist(), found.boxes.tolist(), found.fallback.tolist()) == ([0], [[1, 4, 3, 5]], [True])

    def test_the_bound_is_strict(self) -> None:
        maps = torch.zeros(1, 1, 4, 4)
        maps[..., :2] = 1
        assert propose_boxes(maps, min_size=0.75).fallback.tolist() == [True]
        assert propose_boxes(maps, min_size=0.74).fallback.tolist() == [False]

    def test_constant_maps_of_one_image(self) -> None:
        maps = spots(1)
        maps[0] = 0.5
        assert set(propose_boxes(maps).image.tolist()) == {1}

    @pytest.mark.parametrize("size", [(1, 2), (2, 1), (1, 300)])
    def test_thin_maps(self, size: tuple[int, int]) -> None:
        maps = torch.zeros(1, 1, *size)
        maps[0, 0, 0, 0] = 1
        assert propose_boxes(maps).boxes.tolist() == [[0, 0, 1, 1]]

    @pytest.mark.parametrize(
        ("maps", "min_size", "message"),
        [
            (torch.rand(3, 4, 4), 0.5, "expected maps"),
            (torch.rand(1, 1, 4, 4), 1.5, "min_size"),
            (torch.rand(1, 1, 4, 4), float("nan"), "min_size"),
            (torch.full((1, 1, 4, 4), float("nan")), 0.5, "not finite"),
            (torch.full((1, 1, 4, 4), 2.0), 0.5, "normalise them first"),
            (torch.zeros(1, 1, 0, 4), 0.5, "at least one pixel"),
        ],
    )
    def test_refusals(self, maps: Tensor, min_size: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            propose_boxes(maps, min_size=min_size)

    def test_refuses_integers(self) -> None:
        with pytest.raises(TypeError, match="int64"):
            propose_boxes(torch.ones(1, 1, 4, 4, dtype=torch.int64))


class TestFootprint:
    def test_golden(self, golden: Golden) -> None:
        case = golden("dips")
        for box, mask in zip(case["footprint_boxes"], torch.from_numpy(case["footprint_masks"]), strict=True):
            ours = torch.from_numpy(box) + torch.tensor([0, 0, 1, 1])
            assert torch.equal(footprint(ours, tuple(mask.shape)), mask.bool())

    @given(x=st.integers(0, 6), y=st.integers(0, 4), width=st.integers(1, 7), height=st.integers(1, 5))
    @settings(max_examples=40, deadline=None)
    def test_areas_count_its_pixels(self, x: int, y: int, width: int, height: int) -> None:
        box = torch.tensor([x, y, min(7, x + width), min(5, y + height)])
        assert footprint_areas(box[None], (5, 7)).item() == footprint(box, (5, 7)).sum()
