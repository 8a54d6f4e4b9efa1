from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from methods.networks import MINI, WeightsError, build_vit
from methods.networks.vision_transformer import cls_token

NAME = "vit_mini_patch16"


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = build_vit(NAME, input_size=32).state_dict()
    return {key: torch.randn(value.shape, generator=generator) for key, value in own.items()}


class TestBuildVit:
    @pytest.mark.parametrize("name", sorted(MINI))
    def test_smoke(self, name: str) -> None:
        vit = build_vit(name, input_size=64)
        assert not vit.training
        assert (vit.embed_dim, len(vit.blocks)) == (192, 6)
        side = int(name.rpartition("patch")[2])
        assert vit.pos_embed is not None
        assert vit.pos_embed.shape == (1, 1 + (64 // side) ** 2, 192)
        assert vit(torch.zeros(1, 3, 64, 64)).shape == (1, 192)

    @pytest.mark.parametrize(
        ("name", "prefix"),
        [
            ("vit_tiny_patch16_224", 1),
            ("vit_small_patch16_224.dino", 1),
            ("vit_small_patch8_224.dino", 1),
            ("vit_small_patch14_reg4_dinov2", 5),
        ],
    )
    def test_timm_names(self, name: str, prefix: int) -> None:
        vit = build_vit(name)
        assert vit.num_prefix_tokens == prefix
        assert not any(key.startswith("head.") for key in vit.state_dict())

    def test_weights_arrive(self) -> None:
        given = weights()
        loaded = build_vit(NAME, given, input_size=32).state_dict()
        assert all(torch.equal(loaded[key], given[key]) for key in given)

    def test_weights_of_a_release_and_of_half_precision(self) -> None:
        given = weights()
        changed = {f"backbone.{key}": value.half() for key, value in given.items()}
        changed["head.mlp.0.weight"] = torch.zeros(2, 2)
        loaded = build_vit(NAME, changed, input_size=32).state_dict()
        for key, value in given.items():
            assert loaded[key].dtype == torch.float32
            assert torch.equal(loaded[key], value.half().float())

    def test_without_weights_it_is_random(self) -> None:
        torch.manual_seed(0)
        first, second = (build_vit(NAME, input_size=32).state_dict()["cls_token"] for _ in range(2))
        assert not torch.equal(first, second)

    def test_nothing_is_downloaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, Any] = {}
        create = timm.create_model

        def watched(name: str, **given: Any) -> Any:
            asked.update(given)
            return create(name, **given)

        monkeypatch.setattr(timm, "create_model", watched)
        build_vit("vit_tiny_patch16_224")
        assert asked["pretrained"] is False

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop("norm.weight"), r"missing: norm\.weight \(1\)"),
            (lambda state: state.update({"blocks.9.norm1.weight": torch.zeros(2)}), r"unexpected: blocks\.9\.norm1"),
            (lambda state: state.update({"pos_embed": torch.zeros(1, 9, 192)}), r"another shape: pos_embed \(1\)"),
            (lambda state: state.clear(), r"missing: .*\(\d+\)"),
        ],
    )
    def test_refuses_weights_of_another_network(self, change: Any, message: str) -> None:
        given = weights()
        change(given)
        with pytest.raises(WeightsError, match=message):
            build_vit(NAME, given, input_size=32)

    def test_refuses_a_file_that_holds_its_weights_deeper(self) -> None:
        nested: Any = {"teacher": weights(), "epoch": 3}
        with pytest.raises(WeightsError, match=r"unexpected: epoch, teacher \(2\)"):
            build_vit(NAME, nested, input_size=32)

    @pytest.mark.parametrize("name", ["vit_none", "vit_small_patch16_224.nonsense", ""])
    def test_refuses_unknown_names(self, name: str) -> None:
        with pytest.raises(ValueError, match="expected a timm name"):
            build_vit(name)

    def test_refuses_other_networks(self) -> None:
        with pytest.raises(ValueError, match="plain vision transformer, resnet18 is a ResNet"):
            build_vit("resnet18")


class TestClsToken:
    def test_what_the_network_gives_at_its_own_size(self) -> None:
        vit = build_vit(NAME, weights(), input_size=32)
        images = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(cls_token(vit, images), vit(images), atol=1e-4, rtol=1e-4)

    def test_crops_of_any_size(self) -> None:
        assert cls_token(build_vit(NAME, input_size=64), torch.rand(2, 3, 16, 48)).shape == (2, 192)

    def test_gradients_reach_the_positions(self) -> None:
        vit = build_vit(NAME, input_size=64)
        assert vit.pos_embed is not None
        (gradient,) = torch.autograd.grad(cls_token(vit, torch.rand(2, 3, 48, 48)).square().sum(), vit.pos_embed)
        assert gradient[:, 1:].abs().sum() > 0

    def test_refuses_a_network_without_image_token(self) -> None:
        vit = build_vit(NAME, input_size=32)
        vit.cls_token = None
        with pytest.raises(ValueError, match="got one without"):
            cls_token(vit, torch.zeros(1, 3, 32, 32))
