import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.training.affinity_labels import (
    PairGridError,
    join_labels,
    label_maps,
    pair_indices,
    pair_labels,
    source_grid,
    ways,
)

Golden = Callable[[str], dict[str, Any]]


class TestPairLabels:
    def test_smoke(self) -> None:
        labels = pair_labels(torch.randint(3, (2, 12, 22), dtype=torch.uint8))
        assert all(one.shape == (2, len(ways()), 3 * 4) and one.dtype == torch.bool for one in labels)

    def test_golden(self, golden: Golden) -> None:
        case = golden("irn_random_walk")
        labels = torch.from_numpy(case["seg_label"])
        radius = next(r for r in range(1, 20) if len(ways(r)) == len(case["label_neg"]))
        found = pair_labels(labels[None], radius)
        for one, name in zip(found, ("label_bg_pos", "label_fg_pos", "label_neg"), strict=True):
            assert torch.equal(one[0], torch.from_numpy(case[name]).bool())
        sources, ends = pair_indices(labels.shape[0], labels.shape[1], radius)
        assert torch.equal(sources, torch.from_numpy(case["src_indices"]))
        assert torch.equal(ends, torch.from_numpy(case["dst_indices"]))

    @pytest.mark.parametrize("radius", [3, 5])
    def test_golden_ways(self, golden: Golden, radius: int) -> None:
        case = golden("irn_random_walk")
        assert [list(way.end) for way in ways(radius)] == case[f"dst_offsets_yx_r{radius}"].tolist()
        assert [len(way.places) for way in ways(radius)] == case[f"path_lengths_r{radius}"].tolist()

    @given(seed=st.integers(0, 2**31), radius=st.integers(1, 4))
    @settings(max_examples=10, deadline=None)
    def test_a_pair_is_one_thing(self, seed: int, radius: int) -> None:
        labels = torch.randint(4, (2, 6, 9), generator=torch.Generator().manual_seed(seed))
        labels[labels == 3] = 255
        background, foreground, different = (one.int() for one in pair_labels(labels, radius))
        sources, ends = pair_indices(6, 9, radius)
        flat = labels.flatten(1)
        known = (flat[:, None, sources] != 255) & (flat[:, ends] != 255)
        assert torch.equal(background + foreground + different, known.int())

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_names_of_classes_do_not_matter(self, seed: int) -> None:
        labels = torch.randint(4, (1, 5, 7), generator=torch.Generator().manual_seed(seed))
        renamed = torch.tensor([0, 7, 3, 254])[labels]
        assert all(torch.equal(one, other) for one, other in zip(pair_labels(labels, 3), pair_labels(renamed, 3)))

    def test_one_class_and_nothing_known(self) -> None:
        for label, which in ((0, 0), (9, 1)):
            found = pair_labels(torch.full((1, 4, 7), label, dtype=torch.uint8), 3)
            assert [bool(one.all()) for one in found] == [position == which for position in range(3)]
        assert not any(one.any() for one in pair_labels(torch.full((1, 4, 7), 255), 3))

    def test_radius_of_one_has_no_pair(self) -> None:
        assert all(one.shape == (1, 0, 6) for one in pair_labels(torch.zeros(1, 2, 3, dtype=torch.uint8), 1))

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"\[B, h, w\], got shape \(4, 7\)"):
            pair_labels(torch.zeros(4, 7), 3)


class TestPairIndices:
    @given(height=st.integers(3, 7), width=st.integers(5, 9))
    @settings(max_examples=10, deadline=None)
    def test_pairs_are_near_and_inside(self, height: int, width: int) -> None:
        sources, ends = pair_indices(height, width, 3)
        assert ((ends >= 0) & (ends < height * width)).all()
        down = ends // width - sources // width
        right = ends % width - sources % width
        assert ((down.square() + right.square()) < 9).all()
        both = {(a, b) for row in ends for a, b in zip(sources.tolist(), row.tolist())}
        assert len(both) == ends.numel()
        assert not both & {(b, a) for a, b in both}

    @pytest.mark.parametrize(("height", "width"), [(2, 9), (9, 4)])
    def test_refuses_small_grids(self, height: int, width: int) -> None:
        with pytest.raises(PairGridError, match=f"at least 3 x 5 for pairs within radius 3, got {height} x {width}"):
            source_grid(height, width, 3)

    def test_refuses_no_radius(self) -> None:
        with pytest.raises(ValueError, match="at least 1, got 0"):
            ways(0)


class TestLabelMaps:
    @pytest.mark.parametrize(("score", "label"), [(0.41, 1), (0.4, 0), (0.0, 0)])
    def test_threshold(self, score: float, label: int) -> None:
        assert label_maps(torch.full((1, 2, 1, 1), score, dtype=torch.float64), 0.4).item() == label

    def test_the_last_class(self) -> None:
        maps = torch.zeros(1, 254, 1, 1)
        maps[0, 253] = 1
        assert label_maps(maps, 0.4).item() == 254

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_joined_labels_are_certain(self, seed: int) -> None:
        maps = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
        joined = join_labels(label_maps(maps, 0.6), label_maps(maps, 0.3))
        strongest, label = maps.max(dim=1)
        expected = torch.where(strongest > 0.6, label + 1, torch.where(strongest > 0.3, 255, 0))
        assert torch.equal(joined.long(), expected)

    def test_refuses_shapes_and_values(self) -> None:
        with pytest.raises(ValueError, match="1 to 254 classes"):
            label_maps(torch.zeros(1, 255, 2, 2), 0.4)
        with pytest.raises(ValueError, match="1 of 4 values"):
            label_maps(torch.tensor([[[[0.0, 1.0], [math.nan, 0.0]]]]), 0.4)
        with pytest.raises(ValueError, match=r"of one shape, got \(2, 3\) and \(3, 2\)"):
            join_labels(torch.zeros(2, 3), torch.zeros(3, 2))
