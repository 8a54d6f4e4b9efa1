from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from methods.proposals.patch_tokens import first_input, last_input, projections, require_image_token

Build = Callable[..., VisionTransformer]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"reg_tokens": 3},
    {"reg_tokens": 3, "no_embed_class": True},
    {"class_token": False, "global_pool": "avg"},
    {"pre_norm": True},
]


class TestFirstInput:
    @pytest.mark.parametrize("changes", VARIANTS, ids=str)
    def test_what_timm_gives_its_blocks(self, tiny_vit: Build, changes: dict[str, Any]) -> None:
        vit, images = tiny_vit(**changes), torch.rand(2, 3, 32, 32)
        seen: list[torch.Tensor] = []
        handle = vit.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        vit(images)
        handle.remove()
        tokens, grid = first_input(vit, images)
        assert grid == (4, 4)
        torch.testing.assert_close(tokens, seen[0], atol=1e-6, rtol=1e-5)

    def test_refuses_patches_of_another_kind(self, tiny_vit: Build) -> None:
        vit = tiny_vit()
        vit.patch_embed = torch.nn.Identity()
        with pytest.raises(ValueError, match="got Identity"):
            first_input(vit, torch.zeros(1, 3, 32, 32))


class TestLastInput:
    def test_the_last_block_completes_the_network(self, tiny_vit: Build) -> None:
        vit, images = tiny_vit(), torch.rand(2, 3, 32, 32)
        tokens, _ = last_input(vit, images)
        torch.testing.assert_close(vit.norm(vit.blocks[-1](tokens)), vit.forward_features(images))


class TestProjections:
    def test_they_attend_as_the_block_does(self, tiny_vit: Build) -> None:
        block: Any = tiny_vit(qk_norm=True).blocks[1]
        tokens = torch.rand(2, 9, 24)
        query, key, value = projections(block, tokens)
        mixed = (query @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        found = block.attn.proj(mixed.transpose(1, 2).flatten(2))
        torch.testing.assert_close(found, block.attn(block.norm1(tokens)), atol=1e-5, rtol=1e-4)


class TestRequireImageToken:
    def test_refuses(self, tiny_vit: Build) -> None:
        require_image_token(tiny_vit())
        with pytest.raises(ValueError, match="got one without"):
            require_image_token(tiny_vit(class_token=False, global_pool="avg"))
