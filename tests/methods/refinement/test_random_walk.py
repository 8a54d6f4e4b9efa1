from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from methods.refinement.random_walk import path_affinities, paths, random_walk

Golden = Callable[[str], dict[str, Any]]
LABELS = {"seg_label", "label_bg_pos", "label_fg_pos", "label_neg", "src_indices", "dst_indices"}
LOSSES = {"edge_for_loss", "loss_bg_pos", "loss_fg_pos", "loss_neg", "loss_total"}
"""The arrays of the golden case that are about training a network to find edges; see ``aff_for_loss`` below."""


def _random(seed: int, classes: int = 2, size: tuple[int, int] = (6, 7)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(classes, *size, generator=generator), torch.rand(size, generator=generator).square()


def _slowly(maps: Tensor, edges: Tensor, radius: int, beta: float, log2_steps: int) -> Tensor:
    """The matrix, pair by pair from the text, and its power."""
    height, width = edges.shape
    affinity = torch.eye(height * width, dtype=torch.float64)
    for y, x, below, right in torch.cartesian_prod(*map(torch.arange, (height, width, height, width))).tolist():
        dy, dx = below - y, right - x
        if 0 < dy * dy + dx * dx < radius * radius:
            rectangle = [
                (i, j)
                for i in range(min(y, below), max(y, below) + 1)
                for j in range(min(x, right), max(x, right) + 1)
                if (dy * (j - x) - dx * (i - y)) ** 2 / (dy * dy + dx * dx) < 1
            ]
            strongest = max(float(edges[place]) for place in rectangle)
            affinity[y * width + x, below * width + right] = (1 - strongest) ** beta
    steps = affinity / affinity.sum(dim=0, keepdim=True)
    start = (maps.double() * (1 - edges.double())).flatten(1)
    for _ in range(log2_steps):
        steps = steps @ steps
    return (start @ steps).view(maps.shape).float()


class TestRandomWalk:
    def test_smoke(self) -> None:
        walked = random_walk(*_random(0))
        assert walked.shape == (2, 6, 7)
        assert walked.dtype == torch.float32

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        walks = {f"rw_r{radius}_{power}" for radius in (3, 5) for power in ("b10_t8", "b6_t3")}
        parts = {f"{part}_r{r}" for part in ("path_lengths", "dst_offsets_yx", "sparse_aff") for r in (3, 5)}
        assert (
            set(golden("irn_random_walk")) == {"edge", "cam", "aff_for_loss", "_meta"} | walks | parts | LABELS | LOSSES
        )

    @pytest.mark.parametrize("dense_limit", [0, 2**40])
    def test_golden(self, golden: Golden, dense_limit: int) -> None:
        case = golden("irn_random_walk")
        maps, edges = torch.from_numpy(case["cam"]), torch.from_numpy(case["edge"])[0]
        names = [name for name in case if name.startswith("rw_")]
        assert len(names) == 4
        for name in names:
            radius, beta, steps = (int(part[1:]) for part in name.split("_")[1:])
            walked = random_walk(maps, edges, radius=radius, beta=beta, log2_steps=steps, dense_limit=dense_limit)
            torch.testing.assert_close(walked[:, None], torch.from_numpy(case[name]), rtol=0, atol=5e-5)

    @pytest.mark.parametrize("dense_limit", [0, 2**40])
    @given(seed=st.integers(0, 2**31), radius=st.integers(1, 5), log2_steps=st.integers(0, 8))
    @settings(max_examples=5, deadline=None)
    def test_agrees_with_a_slow_construction(self, seed: int, radius: int, log2_steps: int, dense_limit: int) -> None:
        maps, edges = _random(seed, size=(4, 5))
        found = random_walk(maps, edges, radius=radius, log2_steps=log2_steps, dense_limit=dense_limit)
        torch.testing.assert_close(found, _slowly(maps, edges, radius, 10, log2_steps), rtol=0, atol=1e-6)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_stays_within_the_range(self, seed: int) -> None:
        maps, edges = _random(seed)
        walked, start = random_walk(maps, edges), maps * (1 - edges)
        assert (walked.amin((1, 2)) >= start.amin((1, 2)) - 1e-6).all()
        assert (walked.amax((1, 2)) <= start.amax((1, 2)) + 1e-6).all()

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_mirrored_is_mirrored(self, seed: int) -> None:
        maps, edges = _random(seed)
        walked = random_walk(maps.flip(-1), edges.flip(-1), log2_steps=3)
        torch.testing.assert_close(walked.flip(-1), random_walk(maps, edges, log2_steps=3), rtol=0, atol=1e-5)

    def test_stays_on_its_side_of_an_edge(self) -> None:
        maps, edges = torch.zeros(1, 5, 9), torch.zeros(5, 9)
        maps[0, 2, 1], edges[:, 4] = 1, 1
        walked = random_walk(maps, edges)
        assert (walked[..., :4] > 0).all()
        assert not walked[..., 4:].any()

    @pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
    def test_empty(self, shape: tuple[int, ...]) -> None:
        assert random_walk(torch.zeros(shape), torch.zeros(shape[1:])).shape == shape

    def test_one_pixel(self) -> None:
        assert random_walk(torch.tensor([[[0.8]]]), torch.tensor([[0.5]])).tolist() == [[[pytest.approx(0.4)]]]

    def test_a_wide_grid(self) -> None:
        walked = random_walk(torch.ones(1, 2, 4000), torch.zeros(2, 4000), log2_steps=4)
        torch.testing.assert_close(walked, torch.ones(1, 2, 4000), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("where", ["maps", "edges"])
    def test_refuses_values_that_are_not_finite(self, where: str) -> None:
        maps, edges = _random(0)
        (maps if where == "maps" else edges)[..., 1] = float("nan")
        with pytest.raises(ValueError, match=f"finite {where}"):
            random_walk(maps, edges)

    def test_refuses_edges_outside(self) -> None:
        with pytest.raises(ValueError, match=r"edges in 0\.\.1, got 0\.\.255"):
            random_walk(torch.zeros(1, 1, 2), torch.tensor([[0.0, 255.0]]))

    def test_refuses_shapes_that_do_not_agree(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(3, 2\)"):
            random_walk(torch.zeros(1, 2, 3), torch.zeros(3, 2))

    @pytest.mark.parametrize(
        "option", [{"radius": 0}, {"beta": 0}, {"beta": float("nan")}, {"log2_steps": -1}, {"log2_steps": 21}]
    )
    def test_refuses_options_out_of_range(self, option: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(option))}="):
            random_walk(*_random(0), **option)


class TestPaths:
    @pytest.mark.parametrize("radius", [3, 5])
    def test_golden(self, golden: Golden, radius: int) -> None:
        case = golden("irn_random_walk")
        ends = [tuple(end) for end in case[f"dst_offsets_yx_r{radius}"].tolist()]
        found = {path.end: len(path.places) for path in paths(radius)}
        assert found == dict(zip(ends, case[f"path_lengths_r{radius}"].tolist()))

    @pytest.mark.parametrize("radius", [3, 5])
    def test_golden_affinities(self, golden: Golden, radius: int) -> None:
        case = golden("irn_random_walk")
        order = [[path.end for path in paths(radius)].index(tuple(end)) for end in case[f"dst_offsets_yx_r{radius}"]]
        # The golden case looks at a padded map, from one column beside and one row below the image on.
        edges = pad(torch.from_numpy(case["edge"])[0], (1, 1, 0, 1), value=1)
        expected = torch.from_numpy(case[f"sparse_aff_r{radius}"])[0]
        found = path_affinities(edges, radius)[order].flatten(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    def test_golden_affinities_of_a_map_that_is_not_padded(self, golden: Golden) -> None:
        case = golden("irn_random_walk")
        order = [[path.end for path in paths(5)].index(tuple(end)) for end in case["dst_offsets_yx_r5"]]
        found = path_affinities(torch.from_numpy(case["edge_for_loss"])[0, 0], 5)[order]
        # Only the places whose paths all stay inside.
        torch.testing.assert_close(
            found[:, :-4, 4:-4].flatten(1), torch.from_numpy(case["aff_for_loss"])[0], rtol=0, atol=1e-6
        )
