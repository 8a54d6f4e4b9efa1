from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.losses.affinity_loss import AffinityLosses, affinity_loss, pair_affinities
from methods.refinement.random_walk import path_affinities, paths
from methods.training.affinity_labels import PairGridError, PairLabels, pair_labels, source_grid, ways

Golden = Callable[[str], dict[str, Any]]


def random(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (2, 6, 9), generator=generator)
    labels[labels == 3] = 255
    return torch.rand(2, 1, 6, 9, generator=generator), labels


class TestAffinityLoss:
    def test_smoke(self) -> None:
        edges, labels = random(0)
        terms = affinity_loss(pair_affinities(edges, 3), pair_labels(labels, 3))
        assert isinstance(terms, AffinityLosses)
        assert all(term.shape == () and term > 0 for term in terms)

    def test_golden(self, golden: Golden) -> None:
        case = golden("irn_random_walk")
        pairs = [torch.from_numpy(case[name]).bool()[None] for name in ("label_bg_pos", "label_fg_pos", "label_neg")]
        terms = affinity_loss(torch.from_numpy(case["aff_for_loss"]), PairLabels(*pairs))
        for term, name in zip((*terms, terms.total()), ("bg_pos", "fg_pos", "neg", "total"), strict=True):
            assert term.item() == pytest.approx(case[f"loss_{name}"].item(), rel=1e-5)

    def test_from_edges_to_the_golden_loss(self, golden: Golden) -> None:
        case = golden("irn_random_walk")
        radius = next(r for r in range(1, 20) if len(ways(r)) == case["aff_for_loss"].shape[1])
        pairs = pair_labels(torch.from_numpy(case["seg_label"])[None], radius)
        found = affinity_loss(pair_affinities(torch.from_numpy(case["edge_for_loss"]), radius), pairs)
        assert found.total().item() == pytest.approx(case["loss_total"].item(), rel=1e-5)

    def test_means_are_over_the_pairs_of_the_batch(self) -> None:
        edges, labels = random(1)
        affinities, pairs = pair_affinities(edges, 3), pair_labels(labels, 3)
        terms = affinity_loss(affinities, pairs)
        torch.testing.assert_close(terms.foreground, -(affinities[pairs.foreground] + 1e-5).log().mean())
        torch.testing.assert_close(terms.different, -(1 + 1e-5 - affinities[pairs.different]).log().mean())

    def test_ideal_edges_cost_nothing(self) -> None:
        labels = torch.zeros(1, 6, 9, dtype=torch.uint8)
        labels[:, :, 5:] = 1
        labels[:, :, 4] = 255
        edges = (labels == 255).float()[:, None]
        assert affinity_loss(pair_affinities(edges, 3), pair_labels(labels, 3)).total() < 1e-4

    @pytest.mark.parametrize("edge", [0.0, 1.0])
    def test_gradients_are_finite(self, edge: float) -> None:
        edges = torch.full((2, 1, 6, 9), edge, requires_grad=True)
        terms = affinity_loss(pair_affinities(edges, 3), pair_labels(random(2)[1], 3))
        (gradient,) = torch.autograd.grad(terms.total(), edges)
        assert gradient.isfinite().all()
        assert gradient.any()

    def test_nothing_known(self) -> None:
        edges = random(0)[0].requires_grad_()
        terms = affinity_loss(pair_affinities(edges, 3), pair_labels(torch.full((2, 6, 9), 255), 3))
        (gradient,) = torch.autograd.grad(terms.total(), edges)
        assert terms.total() == 0
        assert not gradient.any()

    def test_half_precision(self) -> None:
        edges, labels = random(0)
        assert (
            affinity_loss(pair_affinities(edges.bfloat16(), 3), pair_labels(labels, 3)).total().dtype == torch.float32
        )

    def test_refuses_shapes_that_differ(self) -> None:
        edges, labels = random(0)
        with pytest.raises(ValueError, match="shape of the affinities"):
            affinity_loss(pair_affinities(edges, 2), pair_labels(labels, 3))


class TestPairAffinities:
    def test_golden(self, golden: Golden) -> None:
        case = golden("irn_random_walk")
        radius = next(r for r in range(1, 20) if len(ways(r)) == case["aff_for_loss"].shape[1])
        found = pair_affinities(torch.from_numpy(case["edge_for_loss"]), radius)
        torch.testing.assert_close(found, torch.from_numpy(case["aff_for_loss"]), rtol=0, atol=1e-6)

    @given(seed=st.integers(0, 2**31), radius=st.integers(1, 4))
    @settings(max_examples=8, deadline=None)
    def test_agrees_with_the_random_walk(self, seed: int, radius: int) -> None:
        edges, _ = random(seed)
        rows, columns = source_grid(6, 9, radius)
        found = {way.end: one for way, one in zip(ways(radius), pair_affinities(edges, radius)[0], strict=True)}
        for path, expected in zip(paths(radius), path_affinities(edges[0, 0], radius), strict=True):
            assert torch.equal(found[path.end], expected[rows, columns].flatten())

    def test_gradient_reaches_the_strongest_pixel(self) -> None:
        edges = torch.tensor([[[[0.1, 0.2, 0.3], [0.4, 0.9, 0.5]]]], requires_grad=True)
        affinities = pair_affinities(edges, 2)
        (gradient,) = torch.autograd.grad(affinities.sum(), edges)
        torch.testing.assert_close(affinities.detach().flatten(), torch.tensor([0.7, 0.1, 0.1, 0.1]))
        assert gradient.tolist() == [[[[0, 0, -1], [0, -3, 0]]]]

    def test_nan_is_not_lost(self) -> None:
        edges = torch.rand(1, 1, 6, 9)
        edges[0, 0, 2, 4] = float("nan")
        assert pair_affinities(edges, 3).isnan().any()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_keeps_the_dtype(self, dtype: torch.dtype) -> None:
        assert pair_affinities(random(0)[0].to(dtype), 3).dtype == dtype

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"\[B, 1, h, w\], got shape \(1, 2, 6, 9\)"):
            pair_affinities(torch.zeros(1, 2, 6, 9), 3)

    def test_refuses_small_grids(self) -> None:
        with pytest.raises(PairGridError, match="at least 10 x 19"):
            pair_affinities(torch.zeros(1, 1, 6, 9))
