from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

Build = Callable[..., VisionTransformer]
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 6, "num_classes": 0}


@pytest.fixture
def tiny_vit() -> Build:
    """Builder of a small transformer with random weights; positions are large enough to matter."""

    def build(**changes: Any) -> VisionTransformer:
        torch.manual_seed(0)
        vit = VisionTransformer(**{**TINY, **changes})
        with torch.no_grad():
            for weights in vit.parameters():
                weights.add_(torch.randn(weights.shape) * 0.2)
        vit.eval()
        return vit

    return build


@pytest.fixture(scope="session")
def golden_vit(golden: Callable[[str], dict[str, Any]]) -> VisionTransformer:
    """The transformer of the golden case, with every weight of it."""
    case = golden("dino_attention")
    about = case["_meta"]
    vit = VisionTransformer(
        img_size=about["img"],
        patch_size=about["patch"],
        embed_dim=about["embed_dim"],
        depth=about["depth"],
        num_heads=about["heads"],
        mlp_ratio=about["mlp_ratio"],
        qkv_bias=about["qkv_bias"],
        num_classes=0,
    )
    vit.load_state_dict({key[3:]: torch.from_numpy(case[key]) for key in case if key.startswith("w::")}, strict=True)
    for module in vit.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == about["ln_eps"]
    vit.eval()
    return vit
