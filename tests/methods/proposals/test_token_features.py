from collections.abc import Callable
from typing import Any, cast, get_args

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from methods.networks.vision_transformer import cls_token
from methods.proposals import token_features
from methods.proposals.patch_tokens import last_input
from methods.proposals.token_features import Kind

Golden = Callable[[str], dict[str, Any]]
Build = Callable[..., VisionTransformer]


class TestTokenFeatures:
    @pytest.mark.parametrize("kind", get_args(Kind))
    def test_smoke(self, tiny_vit: Build, kind: Kind) -> None:
        assert token_features(tiny_vit(reg_tokens=2), torch.rand(2, 3, 16, 40), kind).shape == (2, 24, 2, 5)

    def test_golden_tokens(self, golden: Golden, golden_vit: VisionTransformer) -> None:
        case = golden("dino_attention")
        images, expected = torch.from_numpy(case["image"]), torch.from_numpy(case["last_tokens"])
        found = token_features(golden_vit, images, "token")
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-5, rtol=0)
        torch.testing.assert_close(cls_token(golden_vit, images), expected[:, 0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("kind", ["query", "key", "value"])
    def test_projections_are_rows_of_the_weights(self, tiny_vit: Build, kind: Kind) -> None:
        vit, images = tiny_vit(), torch.rand(2, 3, 32, 32)
        block: Any = vit.blocks[-1]
        part = ["query", "key", "value"].index(kind)
        rows = slice(24 * part, 24 * (part + 1))
        inside = block.norm1(last_input(vit, images)[0])[:, 1:]
        expected = inside @ block.attn.qkv.weight[rows].T + block.attn.qkv.bias[rows]
        found = token_features(vit, images, kind)
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-4)

    def test_works_without_an_image_token(self, tiny_vit: Build) -> None:
        vit = tiny_vit(class_token=False, global_pool="avg")
        assert token_features(vit, torch.rand(1, 3, 16, 16)).shape == (1, 24, 2, 2)

    def test_refuses_other_kinds(self, tiny_vit: Build) -> None:
        with pytest.raises(ValueError, match="token, query, key, value, got 'keys'"):
            token_features(tiny_vit(), torch.zeros(1, 3, 16, 16), cast("Kind", "keys"))
