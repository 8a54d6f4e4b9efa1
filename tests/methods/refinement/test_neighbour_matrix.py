import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.refinement.neighbour_matrix import neighbour_matrix, repeated_product


class TestNeighbourMatrix:
    def test_smoke(self) -> None:
        found = neighbour_matrix(torch.rand(2, 3, 4), [(0, 1), (-1, 0)])
        assert (found.shape, found.layout, found.dtype) == ((12, 12), torch.sparse_csr, torch.float32)

    @given(seed=st.integers(0, 999), height=st.integers(1, 6), width=st.integers(1, 6), count=st.integers(1, 6))
    @settings(max_examples=20, deadline=None)
    def test_equals_the_sum_over_clamped_neighbours(self, seed: int, height: int, width: int, count: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        offsets = [(0, 1), (-2, 0), (3, -7)]
        weights = torch.rand(3, height, width, generator=generator)
        maps = torch.rand(count, height, width, generator=generator)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        expected = torch.zeros_like(maps)
        for weight, (down, right) in zip(weights, offsets, strict=True):
            expected += weight * maps[:, (y + down).clamp(0, height - 1), (x + right).clamp(0, width - 1)]
        torch.testing.assert_close(repeated_product(neighbour_matrix(weights, offsets), maps, 1), expected)

    @pytest.mark.parametrize("times", [0, 1, 2, 3])
    def test_repeats(self, times: int) -> None:
        weights, maps = torch.rand(2, 5, 6), torch.rand(5, 5, 6)
        matrix = neighbour_matrix(weights, [(0, 1), (1, 0)])
        expected = torch.matrix_power(matrix.to_dense(), times) @ maps.flatten(1).T
        torch.testing.assert_close(repeated_product(matrix, maps, times), expected.T.reshape(maps.shape))

    def test_leaves_the_maps_alone(self) -> None:
        maps = torch.rand(4, 3, 3)
        before = maps.clone()
        repeated_product(neighbour_matrix(torch.rand(1, 3, 3), [(0, 1)]), maps, 3)
        assert torch.equal(maps, before)

    def test_refuses_other_offsets(self) -> None:
        with pytest.raises(ValueError, match="of n=1 offsets"):
            neighbour_matrix(torch.rand(2, 3, 3), [(0, 1)])
