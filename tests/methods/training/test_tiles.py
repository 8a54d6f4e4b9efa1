import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.training.tiles import TileError, merge, tile

Golden = Callable[[str], dict[str, Any]]


class TestTile:
    def test_smoke(self) -> None:
        assert tile(torch.rand(2, 3, 8, 6), 2).shape == (8, 3, 4, 3)

    def test_golden(self, golden: Golden) -> None:
        case = golden("puzzle")
        pieces = math.isqrt(case["_meta"]["num_pieces"])
        assert torch.equal(tile(torch.from_numpy(case["x"]), pieces), torch.from_numpy(case["tiled"]))
        demo = tile(torch.from_numpy(case["tile_demo_in"]), 2)
        assert torch.equal(demo, torch.from_numpy(case["tile_demo_out"]))

    @given(count=st.integers(1, 3), pieces=st.integers(1, 3), height=st.integers(1, 3), width=st.integers(1, 3))
    @settings(max_examples=10, deadline=None)
    def test_every_tile_is_a_part(self, count: int, pieces: int, height: int, width: int) -> None:
        images = torch.rand(count, 2, pieces * height, pieces * width)
        tiles = tile(images, pieces)
        for row in range(pieces):
            for column in range(pieces):
                part = images[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
                first = (row * pieces + column) * count
                assert torch.equal(tiles[first : first + count], part)

    def test_keeps_the_dtype(self) -> None:
        assert tile(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 2).dtype == torch.uint8

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 0, 4, 4), (1, 3, 0, 4)])
    def test_empty(self, shape: tuple[int, ...]) -> None:
        assert merge(tile(torch.zeros(shape), 2), 2).shape == shape

    def test_refuses_a_size_that_is_not_divisible(self) -> None:
        with pytest.raises(TileError, match="divisible by 2, got 4 x 5: crop or pad them to 4 x 6"):
            tile(torch.zeros(1, 1, 4, 5), 2)

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(TileError, match=r"\[B, C, H, W\], got shape \(4, 4\)"):
            tile(torch.zeros(4, 4), 2)

    @pytest.mark.parametrize("change", [tile, merge])
    def test_refuses_no_piece(self, change: Callable[..., torch.Tensor]) -> None:
        with pytest.raises(TileError, match="got 0"):
            change(torch.zeros(1, 1, 4, 4), 0)


class TestMerge:
    def test_smoke(self) -> None:
        assert merge(torch.rand(8, 5, 2, 3), 2).shape == (2, 5, 4, 6)

    def test_golden(self, golden: Golden) -> None:
        case = golden("puzzle")
        pieces = math.isqrt(case["_meta"]["num_pieces"])
        merged = merge(torch.from_numpy(case["tiled_features"]), pieces)
        assert torch.equal(merged, torch.from_numpy(case["re_features"]))

    @given(count=st.integers(1, 3), pieces=st.integers(1, 4), height=st.integers(1, 3), width=st.integers(1, 3))
    @settings(max_examples=15, deadline=None)
    def test_undoes_tile(self, count: int, pieces: int, height: int, width: int) -> None:
        images = torch.rand(count, 3, pieces * height, pieces * width)
        assert torch.equal(merge(tile(images, pieces), pieces), images)

    def test_gradient(self) -> None:
        tiles = torch.rand(4, 2, 3, 3, requires_grad=True)
        weights = torch.rand(1, 2, 6, 6)
        (gradient,) = torch.autograd.grad((merge(tiles, 2) * weights).sum(), tiles)
        assert torch.equal(gradient, tile(weights, 2))

    def test_refuses_parts_of_images(self) -> None:
        with pytest.raises(TileError, match=r"divisible by 4, got shape \(6, 1, 2, 2\)"):
            merge(torch.zeros(6, 1, 2, 2), 2)

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(TileError, match=r"got shape \(4, 2, 2\)"):
            merge(torch.zeros(4, 2, 2), 2)
