import sys
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from methods.losses.lattice import CORNERS, Lattice, LatticeRangeError

PHOTOGRAPHS: Any = skimage.data


def points(count: int, seed: int, spread: float = 3.0) -> NDArray[np.float32]:
    """Random features."""
    return np.random.default_rng(seed).normal(scale=spread, size=(count, 5)).astype(np.float32)


def natural(height: int = 32, width: int = 40) -> NDArray[np.float32]:
    """Features of a natural image, which repeat and tie as real ones do."""
    image = PHOTOGRAPHS.astronaut()[::8, ::8][:height, :width].astype(np.float32)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    return np.concatenate([np.stack([columns, rows], -1) / 100, image / 15], -1).reshape(-1, 5).astype(np.float32)


class TestLattice:
    def test_smoke(self) -> None:
        lattice = Lattice(points(40, 0))
        assert lattice.vertices.shape == lattice.weights.shape == (40, CORNERS)
        assert lattice.neighbours.shape[0] == CORNERS
        assert lattice.filter(np.ones((40, 3), np.float32)).shape == (40, 3)

    @given(count=st.integers(0, 60), seed=st.integers(0, 2**31), spread=st.sampled_from([0.0, 0.1, 3.0, 50.0]))
    @settings(max_examples=30, deadline=None)
    def test_compiled_is_plain_to_the_last_bit(self, count: int, seed: int, spread: float) -> None:
        pytest.importorskip("numba")
        features = points(count, seed, spread)
        values = np.random.default_rng(seed).normal(size=(count, 3))
        compiled, plain = Lattice(features, compiled=True), Lattice(features, compiled=False)
        np.testing.assert_array_equal(compiled.weights, plain.weights)
        assert compiled.neighbours.shape == plain.neighbours.shape
        np.testing.assert_array_equal(compiled.filter(values), plain.filter(values))

    @pytest.mark.parametrize(("spread", "corners"), [(0.2, 2048), (1.0, 500)])
    def test_compiled_is_plain_on_many_corners(self, spread: float, corners: int) -> None:
        """On ties of a natural image, and where the compiled table of corners has to grow."""
        pytest.importorskip("numba")
        features = natural() / np.float32(spread)
        values = np.random.default_rng(0).random((len(features), 2))
        compiled, plain = Lattice(features, compiled=True), Lattice(features, compiled=False)
        assert compiled.neighbours.shape[1] > corners
        np.testing.assert_array_equal(compiled.filter(values), plain.filter(values))

    def test_without_numba_it_is_plain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = natural()
        values = np.random.default_rng(0).random((len(features), 2))
        expected = Lattice(features).filter(values)
        monkeypatch.setitem(sys.modules, "methods.losses.lattice_numba", None)
        np.testing.assert_array_equal(Lattice(features).filter(values), expected)
        with pytest.raises(ModuleNotFoundError, match=r"maskmill\[fast\]"):
            Lattice(features, compiled=True)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_weights_are_barycentric(self, seed: int) -> None:
        lattice = Lattice(points(50, seed))
        np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, atol=1e-4)
        assert lattice.weights.min() > -1e-4
        assert all(len(set(row)) == CORNERS for row in lattice.vertices.tolist())

    @given(seed=st.integers(0, 2**31), factor=st.floats(-5, 5))
    @settings(max_examples=15, deadline=None)
    def test_is_linear_and_takes_channels_apart(self, seed: int, factor: float) -> None:
        lattice = Lattice(points(30, seed))
        one, other = np.random.default_rng(seed).normal(size=(2, 30, 2))
        expected = lattice.filter(one) + factor * lattice.filter(other)
        np.testing.assert_allclose(lattice.filter(one + factor * other), expected, atol=1e-12)
        np.testing.assert_array_equal(lattice.filter(one)[:, 1:], lattice.filter(one[:, 1:]))

    def test_sums_do_not_depend_on_the_order_of_points(self) -> None:
        features = natural(10, 12)
        values = np.random.default_rng(0).random((len(features), 2))
        order = np.random.default_rng(1).permutation(len(features))
        shuffled = Lattice(features[order]).filter(values[order])
        np.testing.assert_allclose(shuffled, Lattice(features).filter(values)[order], rtol=1e-12)

    def test_far_points_do_not_meet(self) -> None:
        features = np.zeros((2, 5), np.float32)
        features[1] = 40
        alone = Lattice(features[:1]).filter(np.ones((1, 1)))
        assert Lattice(features).filter(np.array([[1.0], [0.0]]))[1] == 0
        np.testing.assert_allclose(Lattice(features).filter(np.array([[1.0], [7.0]]))[0], alone[0])

    def test_neighbours_are_mutual(self) -> None:
        """Six steps, one along each axis, lead back."""
        lattice = Lattice(natural())
        count = lattice.neighbours.shape[1]
        for forward in lattice.neighbours:
            reached = forward[forward < count]
            assert len(set(reached.tolist())) == len(reached)
        at = np.arange(count + 1)
        for forward in np.pad(lattice.neighbours, ((0, 0), (0, 1)), constant_values=count):
            at = forward[at]
        assert (at[:count][at[:count] < count] == np.flatnonzero(at[:count] < count)).all()

    @pytest.mark.parametrize("compiled", [False, None])
    def test_refuses_features_too_far_apart(self, compiled: bool | None) -> None:
        features = np.full((2, 5), 1e5, np.float32)
        features[0] *= -1
        with pytest.raises(LatticeRangeError, match=r"2\^62.*larger standard deviations"):
            Lattice(features, compiled=compiled)
        with pytest.raises(LatticeRangeError, match="1e\\+06 standard deviations of 0, got 1e\\+12"):
            Lattice(features * np.float32(1e7), compiled=compiled)

    def test_refuses_values_that_are_not_finite(self) -> None:
        features = points(4, 0)
        features[1, 2] = np.nan
        with pytest.raises(ValueError, match="1 NaN or infinite"):
            Lattice(features)

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"float32 features \[P, 5\], got float32 \(4, 3\)"):
            Lattice(points(4, 0)[:, :3])
        with pytest.raises(ValueError, match="got float64"):
            Lattice(points(4, 0).astype(np.float64))
        with pytest.raises(ValueError, match=r"values \[4, K\], got shape \(5, 1\)"):
            Lattice(points(4, 0)).filter(np.ones((5, 1)))
