from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.networks.decoder import Decoder, DecoderHead, resize

Golden = Callable[[str], dict[str, Any]]
RESNET50 = (3, 64, 256, 512, 1024, 2048)
VGG16_WSOL = (3, 128, 256, 1024)


def under(case: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(case[key]) for key in case if key.startswith(prefix)}


def parameters(*modules: nn.Module) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())


def load(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Everything but the counters of batch norm, which the goldens leave out."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return module.eval()


class TestDecoder:
    def test_smoke(self) -> None:
        features = [torch.rand(2, c, s, s) for c, s in [(3, 32), (4, 16), (6, 8), (8, 4)]]
        assert Decoder((3, 4, 6, 8)).eval()(features).shape == (2, 64, 32, 32)

    def test_golden(self, golden: Golden) -> None:
        case = golden("fcam_decoder")
        about = case["_meta"]
        decoder = Decoder(about["encoder_channels"], about["decoder_channels"])
        load(decoder, under(case, "dec."))
        head = load(DecoderHead(about["decoder_channels"][-1]), under(case, "head."))
        features = [torch.from_numpy(case[f"feat{i}"]) for i in range(len(about["encoder_channels"]))]
        with torch.no_grad():
            out = decoder(features)
            close(out, case["decoder_out"])
            close(head(out), case["head_logits"])
            close(head(out, size=features[0].shape[-2:]), case["logits_image_size"])

    def test_golden_with_a_centre(self, golden: Golden) -> None:
        case = golden("fcam_decoder")
        about = case["_meta"]
        decoder = Decoder(about["encoder3c"], about["decoder3c"], center=True)
        load(decoder, under(case, "dec3c."))
        features = [torch.from_numpy(case[f"feat3c_{i}"]) for i in range(len(about["encoder3c"]))]
        with torch.no_grad():
            close(decoder(features), case["decoder3c_out"])

    def test_golden_every_array_is_known(self, golden: Golden) -> None:
        outputs = {"decoder_out", "head_logits", "logits_image_size", "decoder3c_out", "_meta"}
        inputs = ("dec.", "dec3c.", "head.", "feat")
        assert outputs == {key for key in golden("fcam_decoder") if not key.startswith(inputs)}

    def test_golden_parameters(self, golden: Golden) -> None:
        decoder = Decoder(RESNET50)
        assert [value.shape[1] for key, value in decoder.state_dict().items() if key.endswith("conv1.0.weight")] == [
            3072,
            768,
            384,
            128,
            32,
        ]
        expected = golden("fcam_decoder")["_meta"]["params_resnet50_decoder_plus_head"]
        assert parameters(decoder, DecoderHead(16)) == expected == 9_013_218
        decoder = Decoder(VGG16_WSOL, center=True)
        assert decoder.widths == (256, 128, 64)
        assert round(parameters(decoder, DecoderHead(64)) / 1e6, 1) == 23.1

    @pytest.mark.parametrize("sides", [(33, 17, 9, 5), (40, 20, 10, 10), (37, 19, 19, 3), (32, 8, 4, 4)])
    def test_sizes_need_not_halve(self, sides: tuple[int, ...]) -> None:
        features = [torch.rand(1, c, s, s + 2) for c, s in zip((3, 4, 6, 8), sides)]
        out = Decoder((3, 4, 6, 8)).eval()(features)
        assert out.shape == (1, 64, 2 * sides[1], 2 * (sides[1] + 2))
        assert DecoderHead(64)(out, size=(sides[0], sides[0] + 2)).shape == (1, 2, sides[0], sides[0] + 2)

    def test_initialisation(self) -> None:
        decoder, head = Decoder((3, 32, 64), (48, 40)), DecoderHead(40)
        for module in decoder.modules():
            if isinstance(module, nn.Conv2d):
                bound = (6 / (9 * module.in_channels)) ** 0.5
                assert bound * 0.98 < module.weight.abs().max() <= bound
            if isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all()
                assert not module.bias.any()
        state = head.state_dict()
        assert not state["0.bias"].any()
        assert 0 < state["0.weight"].abs().max() <= (6 / (9 * 42)) ** 0.5

    def test_images_do_not_mix(self) -> None:
        decoder = Decoder((3, 4, 6), (5, 4)).eval()
        features = [torch.rand(2, c, s, s) for c, s in [(3, 16), (4, 8), (6, 4)]]
        with torch.no_grad():
            torch.testing.assert_close(decoder(features)[1:], decoder([feature[1:] for feature in features]))

    def test_channels_last(self) -> None:
        decoder = Decoder((3, 4, 6, 8)).eval()
        features = [torch.rand(2, c, s, s) for c, s in [(3, 30), (4, 15), (6, 8), (8, 4)]]
        with torch.no_grad():
            expected = decoder(features)
            decoder.to(memory_format=torch.channels_last)
            found = decoder([feature.contiguous(memory_format=torch.channels_last) for feature in features])
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize(
        ("channels", "widths"), [((3,), ()), ((3, 4), (5, 6)), ((3, 4, 5), (5,)), ((3, 0), (5,)), ((3, 4), (0,))]
    )
    def test_refuses_channels_and_widths_that_do_not_match(
        self, channels: tuple[int, ...], widths: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match="one width a feature; got"):
            Decoder(channels, widths)

    def test_refuses_more_features_than_default_widths(self) -> None:
        with pytest.raises(ValueError, match="one width a feature; got"):
            Decoder((3, 4, 5, 6, 7, 8, 9))

    @pytest.mark.parametrize("shapes", [[], [(1, 3, 8, 8)], [(1, 3, 8, 8), (1, 5, 4, 4)], [(3, 8, 8), (4, 4, 4)]])
    def test_refuses_other_features(self, shapes: list[tuple[int, ...]]) -> None:
        with pytest.raises(ValueError, match=r"channels \(3, 4\), got shapes"):
            Decoder((3, 4), (5,))([torch.zeros(shape) for shape in shapes])


class TestResize:
    def test_smoke(self) -> None:
        assert resize(torch.rand(2, 3, 4, 5), (7, 8)).shape == (2, 3, 7, 8)

    def test_corners_stay(self) -> None:
        values = torch.rand(1, 1, 4, 5)
        assert torch.equal(
            resize(values, (9, 12))[..., [0, 0, -1, -1], [0, -1, 0, -1]], values[..., [0, 0, -1, -1], [0, -1, 0, -1]]
        )

    def test_leaves_what_fits(self) -> None:
        values = torch.rand(1, 2, 3, 4)
        assert resize(values, (3, 4)) is values


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-5)
