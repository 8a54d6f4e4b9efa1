from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.refinement.edge_predict import edge_predict, super_pixels

Golden = Callable[[str], dict[str, Any]]
IGNORE = 255


def _random(seed: int, shape: tuple[int, ...] = (2, 7, 9)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([0, 1, 2, IGNORE], dtype=torch.uint8)
    return values[torch.randint(0, 4, shape, generator=generator)], torch.rand(shape, generator=generator) < 0.35


def _slowly(labels: Tensor, edges: Tensor) -> Tensor:
    """One image, region by region, straight from the text."""
    found = labels.clone()
    found[edges & (labels == 0)] = IGNORE
    seen: set[tuple[int, int]] = set()
    for start in (~edges).nonzero().tolist():
        queue, region = [tuple(start)], []
        while queue:
            y, x = queue.pop()
            inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
            if not inside or (y, x) in seen or edges[y, x]:
                continue
            seen.add((y, x))
            region.append((y, x))
            queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        counts = Counter(int(labels[place]) for place in region)
        for place in region:
            if labels[place] == IGNORE:
                found[place] = min(counts, key=lambda value: (-counts[value], value))
    return found


class TestEdgePredict:
    def test_smoke(self) -> None:
        found = edge_predict(*_random(0))
        assert found.shape == (2, 7, 9)
        assert found.dtype == torch.uint8

    def test_golden_every_array_is_checked(self, golden: Golden) -> None:
        inputs, checked = {"image_rgb", "edge", "label_in", "_meta"}, {"label_out", "superpixel_count"}
        # canny_reference: test_canny.py
        assert set(golden("edge_predict")) == inputs | checked | {"canny_reference"}

    def test_golden(self, golden: Golden) -> None:
        case = golden("edge_predict")
        labels, edges = torch.from_numpy(case["label_in"]), torch.from_numpy(case["edge"]) > 0
        assert torch.equal(edge_predict(labels, edges), torch.from_numpy(case["label_out"]))
        assert [super_pixels(edge)[1] for edge in edges] == case["superpixel_count"].tolist()

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_agrees_with_a_slow_construction(self, seed: int) -> None:
        labels, edges = _random(seed)
        expected = torch.stack([_slowly(label, edge) for label, edge in zip(labels, edges)])
        assert torch.equal(edge_predict(labels, edges), expected)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_only_doubtful_pixels_and_background_on_edges_change(self, seed: int) -> None:
        labels, edges = _random(seed)
        found = edge_predict(labels, edges)
        assert ((found == labels) | (labels == IGNORE) | (edges & (labels == 0) & (found == IGNORE))).all()

    def test_equally_frequent_labels_take_the_smallest(self) -> None:
        labels = torch.tensor([[[2, 2, 1, 1, IGNORE]]], dtype=torch.uint8)
        assert edge_predict(labels, torch.zeros(1, 1, 5, dtype=torch.bool)).tolist() == [[[2, 2, 1, 1, 1]]]

    def test_without_doubt_nothing_changes_off_edges(self) -> None:
        labels = torch.tensor([[[0, 1, 0, 3]]], dtype=torch.uint8)
        edges = torch.tensor([[[True, True, False, False]]])
        assert edge_predict(labels, edges).tolist() == [[[IGNORE, 1, 0, 3]]]

    def test_all_on_an_edge(self) -> None:
        labels = torch.tensor([[[0, 7, IGNORE]]], dtype=torch.uint8)
        assert edge_predict(labels, torch.ones(1, 1, 3, dtype=torch.bool)).tolist() == [[[IGNORE, 7, IGNORE]]]

    @pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1), (1, 4, 4000)])
    def test_sizes(self, shape: tuple[int, ...]) -> None:
        labels = torch.full(shape, IGNORE, dtype=torch.uint8)
        assert torch.equal(edge_predict(labels, torch.zeros(shape, dtype=torch.bool)), labels)

    def test_refuses_shapes_that_do_not_agree(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 3, 4\) and \(1, 4, 3\)"):
            edge_predict(torch.zeros(1, 3, 4, dtype=torch.uint8), torch.zeros(1, 4, 3, dtype=torch.bool))

    def test_refuses_other_labels(self) -> None:
        with pytest.raises(TypeError, match=r"uint8 labels, got torch\.int64"):
            edge_predict(torch.zeros(1, 3, 4, dtype=torch.int64), torch.zeros(1, 3, 4, dtype=torch.bool))

    def test_refuses_other_edges(self) -> None:
        with pytest.raises(TypeError, match="edges > 0"):
            edge_predict(*torch.zeros(2, 1, 3, 4, dtype=torch.uint8))


class TestSuperPixels:
    def test_diagonal_neighbours_are_apart(self) -> None:
        regions, count = super_pixels(torch.tensor([[False, True], [True, False]]))
        assert regions.tolist() == [[1, 0], [0, 2]]
        assert count == 2

    def test_refuses_a_batch(self) -> None:
        with pytest.raises(ValueError, match=r"expected edges \[H, W\]"):
            super_pixels(torch.zeros(1, 3, 4, dtype=torch.bool))
