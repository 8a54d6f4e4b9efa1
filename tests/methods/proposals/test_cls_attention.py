import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import Tensor

from methods.proposals import attention_matrix, cls_attention, head_maps, mean_and_heads

Golden = Callable[[str], dict[str, Any]]
Build = Callable[..., VisionTransformer]
OUTPUTS = {"attn_last", "cls_heads", "maps_1_4_and_mean", "attn_last2", "last_tokens"}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"reg_tokens": 4, "no_embed_class": True},
    {"reg_tokens": 2},
    {"qk_norm": True},
    {"pre_norm": True},
    {"init_values": 0.1, "qkv_bias": False},
    {"dynamic_img_size": True},
]


def observed(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Attention of the last block as timm's own forward pass computes it."""
    seen: list[Tensor] = []
    attention: Any = vit.blocks[-1].attn
    attention.fused_attn = False
    handle = attention.attn_drop.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    vit(images)
    handle.remove()
    return seen[0]


def fusing(vit: VisionTransformer) -> list[bool]:
    blocks: Any = vit.blocks
    return [block.attn.fused_attn for block in blocks]


class TestClsAttention:
    def test_smoke(self, tiny_vit: Build) -> None:
        found = cls_attention(tiny_vit(), torch.rand(2, 3, 32, 48))
        assert found.shape == (2, 6, 4, 6)
        assert found.dtype == torch.float32

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        names = {name for name in golden("dino_attention") if not name.startswith("w::")}
        assert names == OUTPUTS | {"image", "image2", "_meta"}

    @pytest.mark.parametrize("number", ["", "2"])
    def test_golden_matrix(self, golden: Golden, golden_vit: VisionTransformer, number: str) -> None:
        case = golden("dino_attention")
        found = attention_matrix(golden_vit, torch.from_numpy(case[f"image{number}"]))
        torch.testing.assert_close(found, torch.from_numpy(case[f"attn_last{number}"]), atol=1e-6, rtol=0)

    def test_golden_heads(self, golden: Golden, golden_vit: VisionTransformer) -> None:
        case = golden("dino_attention")
        found = cls_attention(golden_vit, torch.from_numpy(case["image"]))
        torch.testing.assert_close(found, torch.from_numpy(case["cls_heads"]), atol=1e-6, rtol=0)

    def test_golden_heads_on_another_grid(self, golden: Golden, golden_vit: VisionTransformer) -> None:
        case = golden("dino_attention")
        found = cls_attention(golden_vit, torch.from_numpy(case["image2"]))
        expected = torch.from_numpy(case["attn_last2"])[:, :, 0, 1:].reshape(found.shape)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("changes", VARIANTS, ids=str)
    def test_agrees_with_timm_where_positions_need_no_resampling(
        self, tiny_vit: Build, changes: dict[str, Any]
    ) -> None:
        vit, images = tiny_vit(**changes), torch.rand(2, 3, 32, 32)
        expected = observed(vit, images)
        torch.testing.assert_close(attention_matrix(vit, images), expected, atol=1e-6, rtol=1e-4)
        heads = expected[:, :, 0, vit.num_prefix_tokens :].reshape(2, 6, 4, 4)
        torch.testing.assert_close(cls_attention(vit, images), heads, atol=1e-6, rtol=1e-4)

    def test_rows_sum_to_one(self, tiny_vit: Build) -> None:
        rows = attention_matrix(tiny_vit(reg_tokens=2), torch.rand(1, 3, 16, 40)).sum(dim=-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))

    @pytest.mark.parametrize("size", [(8, 8), (8, 80), (40, 16), (32, 32)])
    def test_images_of_a_batch_do_not_meet(self, tiny_vit: Build, size: tuple[int, int]) -> None:
        vit, images = tiny_vit(), torch.rand(3, 3, *size)
        one_by_one = torch.cat([cls_attention(vit, image[None]) for image in images])
        torch.testing.assert_close(cls_attention(vit, images), one_by_one, atol=1e-6, rtol=1e-4)

    def test_no_image(self, tiny_vit: Build) -> None:
        assert cls_attention(tiny_vit(), torch.zeros(0, 3, 16, 32)).shape == (0, 6, 2, 4)

    def test_nothing_of_the_network_changes(self, tiny_vit: Build) -> None:
        vit = tiny_vit()
        fused = fusing(vit)
        before = {key: value.clone() for key, value in vit.state_dict().items()}
        cls_attention(vit, torch.rand(1, 3, 16, 16))
        with pytest.raises(ValueError, match="multiple"):
            cls_attention(vit, torch.rand(1, 3, 16, 17))
        assert fusing(vit) == fused
        assert not any(module._forward_hooks for module in vit.modules())
        assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())

    def test_threads_share_a_network(self, tiny_vit: Build) -> None:
        vit, images = tiny_vit(), torch.rand(4, 3, 32, 48)
        found: dict[int, Tensor] = {}

        def work(number: int) -> None:
            with torch.no_grad():
                found[number] = cls_attention(vit, images[number : number + 1])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = cls_attention(vit, images)
        for number in range(4):
            torch.testing.assert_close(found[number][0], expected[number], atol=1e-6, rtol=1e-4)

    @pytest.mark.parametrize("shape", [(1, 3, 33, 32), (1, 3, 32, 36), (3, 32, 32), (1, 3, 0, 32)])
    def test_refuses_other_sizes(self, tiny_vit: Build, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="H a multiple of 8 and W of 8"):
            cls_attention(tiny_vit(), torch.zeros(shape))

    def test_refuses_images_that_are_not_finite(self, tiny_vit: Build) -> None:
        images = torch.zeros(1, 3, 16, 16)
        images[0, 1, 2, 3] = float("nan")
        with pytest.raises(ValueError, match="1 of 768 values"):
            cls_attention(tiny_vit(), images)

    def test_refuses_a_network_without_image_token(self, tiny_vit: Build) -> None:
        with pytest.raises(ValueError, match="expected a transformer with an image token"):
            cls_attention(tiny_vit(class_token=False, global_pool="avg"), torch.zeros(1, 3, 16, 16))

    def test_refuses_blocks_of_another_kind(self, tiny_vit: Build) -> None:
        for kind in (ParallelScalingBlock, ResPostBlock):
            with pytest.raises(ValueError, match=f"block 0 is {kind.__name__}"):
                cls_attention(tiny_vit(block_fn=kind), torch.zeros(1, 3, 16, 16))

    def test_refuses_attention_of_another_kind(self, tiny_vit: Build) -> None:
        vit = tiny_vit()
        last: Any = vit.blocks[-1]
        last.attn = torch.nn.Identity()
        with pytest.raises(ValueError, match="block 2 is Block of Identity"):
            cls_attention(vit, torch.zeros(1, 3, 16, 16))


class TestHeadMaps:
    def test_smoke(self, tiny_vit: Build) -> None:
        assert head_maps(tiny_vit(), torch.rand(2, 3, 16, 24)).shape == (2, 5, 16, 24)

    def test_golden(self, golden: Golden, golden_vit: VisionTransformer) -> None:
        case = golden("dino_attention")
        found = head_maps(golden_vit, torch.from_numpy(case["image"]))
        torch.testing.assert_close(found, torch.from_numpy(case["maps_1_4_and_mean"]), atol=1e-6, rtol=0)

    def test_fewer_heads_give_fewer_maps(self, tiny_vit: Build) -> None:
        assert head_maps(tiny_vit(num_heads=2), torch.rand(1, 3, 16, 16)).shape[1] == 3


class TestMeanAndHeads:
    def test_golden_modes(self, golden: Golden) -> None:
        case = golden("dips")
        attention, size = torch.from_numpy(case["cls_attention"]), tuple(case["_meta"]["size"])
        modes = {
            "maps_1_4_heads_and_mean": mean_and_heads(attention, size),
            "maps_1_4_heads_and_mean_1_4": mean_and_heads(attention[:, :4], size),
            "maps_all_heads_and_mean": mean_and_heads(attention, size, heads=attention.shape[1]),
        }
        for name, found in modes.items():
            expected = torch.from_numpy(case[name])
            stride = size[0] // expected.shape[-1]
            torch.testing.assert_close(found[:, :, ::stride, ::stride], expected, atol=1e-6, rtol=0, msg=name)

    @given(seed=st.integers(0, 2**31), count=st.integers(1, 7), heads=st.integers(0, 7))
    @settings(max_examples=15, deadline=None)
    def test_every_map_reaches_one(self, seed: int, count: int, heads: int) -> None:
        attention = torch.rand(2, count, 3, 4, generator=torch.Generator().manual_seed(seed)) + 1e-3
        maps = mean_and_heads(attention, (12, 20), heads=heads)
        assert maps.shape == (2, 1 + min(count, heads), 12, 20)
        torch.testing.assert_close(maps.amax(dim=(2, 3)), torch.ones(maps.shape[:2]))
        torch.testing.assert_close(mean_and_heads(attention * 3, (12, 20), heads=heads), maps)

    def test_a_head_that_sees_nothing_stays_zero(self) -> None:
        attention = torch.zeros(1, 2, 3, 3)
        attention[0, 1, 1, 1] = 0.5
        maps = mean_and_heads(attention, (6, 6))
        assert maps[0, 1].eq(0).all()
        assert maps[0, 0].max() == maps[0, 2].max() == 1

    @pytest.mark.parametrize(
        ("attention", "heads", "message"),
        [
            (torch.zeros(2, 3, 4), 4, "expected attention"),
            (torch.zeros(2, 0, 4, 4), 4, "expected attention"),
            (torch.zeros(2, 1, 4, 4), -1, "heads=-1"),
            (torch.full((1, 1, 2, 2), float("nan")), 4, "4 of 4 values"),
            (torch.full((1, 1, 2, 2), -0.5), 4, "not negative, got -0.5"),
        ],
    )
    def test_refusals(self, attention: Tensor, heads: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            mean_and_heads(attention, (4, 4), heads=heads)
