from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from methods.proposals import position_grid

Build = Callable[..., VisionTransformer]


def cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.75, as torch takes it."""
    x, a = distance.abs(), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resampling(learned: int, wanted: int) -> Tensor:
    """Matrix ``[wanted, learned]`` that resamples a line by the factor (wanted + 0.1) / learned, edges repeated."""
    places = (torch.arange(wanted).double() + 0.5) * learned / (wanted + 0.1) - 0.5
    matrix = torch.zeros(wanted, learned, dtype=torch.float64)
    for tap in range(-1, 3):
        source = places.floor() + tap
        index = source.clamp(0, learned - 1).long()
        matrix.scatter_add_(1, index[:, None], cubic(places - source)[:, None])
    return matrix


def learned_positions(vit: VisionTransformer) -> Tensor:
    assert vit.pos_embed is not None
    return vit.pos_embed.detach()


class TestPositionGrid:
    def test_smoke(self, tiny_vit: Build) -> None:
        prefix, patches = position_grid(tiny_vit(), (3, 7))
        assert prefix.shape == (1, 1, 24)
        assert patches.shape == (1, 21, 24)

    def test_the_trained_grid_keeps_its_positions(self, tiny_vit: Build) -> None:
        vit = tiny_vit()
        prefix, patches = position_grid(vit, (4, 4))
        assert torch.equal(torch.cat([prefix, patches], dim=1), learned_positions(vit))

    def test_a_grid_of_as_many_patches_is_still_another(self, tiny_vit: Build) -> None:
        vit = tiny_vit()
        assert not torch.equal(position_grid(vit, (2, 8))[1], position_grid(vit, (4, 4))[1])

    @pytest.mark.parametrize("grid", [(5, 6), (1, 1), (4, 9), (2, 8), (28, 28)])
    def test_against_the_formula(self, tiny_vit: Build, grid: tuple[int, int]) -> None:
        vit = tiny_vit()
        learned = learned_positions(vit)[0, 1:].double().reshape(4, 4, 24)
        rows, columns = resampling(4, grid[0]), resampling(4, grid[1])
        expected = torch.einsum("ai,bj,ijd->abd", rows, columns, learned).flatten(0, 1)
        torch.testing.assert_close(position_grid(vit, grid)[1][0].double(), expected, atol=1e-5, rtol=1e-4)

    @given(height=st.integers(1, 70), width=st.integers(1, 70))
    @settings(max_examples=25, deadline=None)
    def test_any_grid_has_its_number_of_patches(self, height: int, width: int) -> None:
        vit = VisionTransformer(img_size=14, patch_size=1, embed_dim=2, depth=1, num_heads=1, num_classes=0)
        assert position_grid(vit, (height, width))[1].shape == (1, height * width, 2)

    def test_registers_without_positions(self, tiny_vit: Build) -> None:
        assert position_grid(tiny_vit(reg_tokens=4, no_embed_class=True), (3, 3))[0].shape == (1, 0, 24)
        assert position_grid(tiny_vit(reg_tokens=4), (3, 3))[0].shape == (1, 5, 24)

    def test_a_trained_grid_that_is_no_square(self, tiny_vit: Build) -> None:
        vit = tiny_vit(img_size=(16, 64))
        assert torch.equal(position_grid(vit, (2, 8))[1], learned_positions(vit)[:, 1:])
        assert position_grid(vit, (4, 4))[1].shape == (1, 16, 24)

    def test_refusals(self, tiny_vit: Build) -> None:
        with pytest.raises(ValueError, match="learned positions"):
            position_grid(tiny_vit(pos_embed="none"), (4, 4))
        with pytest.raises(ValueError, match=r"at least one patch, got \(0, 4\)"):
            position_grid(tiny_vit(), (0, 4))
