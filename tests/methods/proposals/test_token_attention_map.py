from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from methods.proposals import cls_attention, token_attention, token_attention_map

Build = Callable[..., VisionTransformer]


class TestTokenAttention:
    def test_smoke(self, tiny_vit: Build) -> None:
        assert token_attention(tiny_vit(), torch.rand(2, 3, 16, 40)).shape == (2, 2, 5)

    @pytest.mark.parametrize("changes", [{}, {"reg_tokens": 2}, {"qk_norm": True}], ids=str)
    def test_mean_of_what_timm_attends_to(self, tiny_vit: Build, changes: dict[str, Any]) -> None:
        vit, images = tiny_vit(**changes), torch.rand(2, 3, 32, 32)
        seen: list[Tensor] = []
        blocks: Any = vit.blocks
        for block in blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(lambda _, given, __: seen.append(given[0]))
        vit(images)
        expected = torch.stack(seen).mean(dim=(0, 2))[:, 0, vit.num_prefix_tokens :].reshape(2, 4, 4)
        torch.testing.assert_close(token_attention(vit, images), expected, atol=1e-6, rtol=1e-4)

    def test_one_block_is_the_mean_of_the_heads(self, tiny_vit: Build) -> None:
        vit, images = tiny_vit(depth=1), torch.rand(2, 3, 40, 16)
        torch.testing.assert_close(token_attention(vit, images), cls_attention(vit, images).mean(dim=1))

    def test_refuses_a_network_without_image_token(self, tiny_vit: Build) -> None:
        with pytest.raises(ValueError, match="got one without"):
            token_attention(tiny_vit(class_token=False, global_pool="avg"), torch.zeros(1, 3, 16, 16))


class TestTokenAttentionMap:
    def test_smoke(self) -> None:
        assert token_attention_map(torch.rand(2, 3, 4), torch.rand(2, 5, 3, 4)).shape == (2, 5, 3, 4)

    def test_even_attention_changes_no_map(self) -> None:
        classes = torch.randn(2, 3, 4, 5)
        assert torch.equal(token_attention_map(torch.ones(2, 4, 5), classes), classes)

    def test_classes_do_not_mix(self) -> None:
        attention, classes = torch.rand(2, 4, 5), torch.randn(2, 3, 4, 5)
        order = torch.tensor([2, 0, 1])
        found = token_attention_map(attention, classes)
        assert torch.equal(token_attention_map(attention, classes[:, order]), found[:, order])

    @pytest.mark.parametrize("shape", [(2, 4, 4), (1, 4, 5), (2, 1, 4, 5)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected attention"):
            token_attention_map(torch.rand(shape), torch.rand(2, 3, 4, 5))

    def test_refuses_values_that_are_not_finite(self) -> None:
        broken = torch.full((1, 1, 1), float("inf"))
        with pytest.raises(ValueError, match="finite attention"):
            token_attention_map(broken, torch.zeros(1, 1, 1, 1))
        with pytest.raises(ValueError, match="finite class maps"):
            token_attention_map(torch.zeros(1, 1, 1), broken[None])
