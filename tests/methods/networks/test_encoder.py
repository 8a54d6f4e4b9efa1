import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from methods.networks import ClassifierNetwork, build_classifier
from methods.networks.encoder import Encoder, EncoderError, encoder_layers

SIDES = {"inception_v3": 96}
CHANNELS = {
    "small": (3, 24, 48, 96, 128, 160),
    "vgg16": (3, 128, 256, 512, 512, 512),
    "resnet18": (3, 64, 64, 128, 256, 512),
    "resnet50": (3, 64, 256, 512, 1024, 2048),
    "inception_v3": (3, 64, 192, 288, 768, 2048),
    "squeezenet1_1": (3, 64, 128, 256, 512),
    "mobilenet_v2": (3, 16, 24, 32, 96, 1280),
    "resnet10t": (3, 64, 64, 128, 256, 512),
}


def of(*layers: nn.Module) -> ClassifierNetwork:
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ClassifierNetwork("own", 4, model.eval(), {"S5": "0"}, "0", ())


class TestEncoder:
    @pytest.mark.parametrize("backbone", CHANNELS)
    def test_smoke(self, backbone: str) -> None:
        encoder = Encoder(build_classifier(backbone, 3))
        side = SIDES.get(backbone, 32)
        images = torch.rand(2, 3, side, side + 6)
        features = encoder(images)
        assert encoder.channels == CHANNELS[backbone] == tuple(feature.shape[1] for feature in features)
        assert features[0].data_ptr() == images.data_ptr()
        assert not any(feature.requires_grad for feature in features)
        sides = [feature.shape[2] for feature in features]
        assert sides == sorted(sides, reverse=True)
        assert 2 * sides[1] >= side - 6
        assert not any(module._forward_hooks for module in encoder.model.modules())

    def test_features_are_those_of_the_classifier(self) -> None:
        network = build_classifier("small", 3)
        images = torch.rand(2, 3, 64, 64)
        features = Encoder(network, ["S2", "stages.4"])(images)
        stages = network.model.get_submodule("stages")
        assert isinstance(stages, nn.Sequential)
        torch.testing.assert_close(features[1], stages[:2](images))
        torch.testing.assert_close(features[2], stages(images))

    def test_timm_without_a_first_stage(self) -> None:
        network = build_classifier("convnext_atto", 3, head="native")
        assert encoder_layers(network) == ("S2", "S3", "S4", "S5")
        assert Encoder(network).channels == (3, 40, 80, 160, 320)

    def test_building_changes_nothing(self) -> None:
        network = build_classifier("small", 3)
        network.model.train()
        before = copy.deepcopy(network.model.state_dict())
        encoder = Encoder(network, frozen=False)
        assert all(module.training for module in encoder.modules())
        assert all(torch.equal(value, before[key]) for key, value in network.model.state_dict().items())
        assert all(parameter.requires_grad for parameter in encoder.parameters())

    def test_frozen_stays_in_evaluation_mode(self) -> None:
        network = build_classifier("small", 3)
        encoder = Encoder(network).train()
        assert encoder.training
        assert not any(module.training for module in network.model.modules())
        before = copy.deepcopy(network.model.state_dict())
        network.model.train()
        encoder(torch.rand(2, 3, 32, 32))
        assert all(torch.equal(value, before[key]) for key, value in network.model.state_dict().items())

    def test_unfrozen_learns(self) -> None:
        encoder = Encoder(build_classifier("small", 3), frozen=False).train()
        encoder(torch.rand(2, 3, 32, 32))[-1].sum().backward()
        assert encoder.model.get_submodule("stages.0.0").weight.grad is not None

    def test_threads_do_not_mix(self) -> None:
        encoder = Encoder(build_classifier("small", 3))
        batches = [torch.rand(1, 3, 64, 64) for _ in range(40)]
        alone = [encoder(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(encoder, batches))
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other)

    def test_inference_mode(self) -> None:
        encoder = Encoder(build_classifier("small", 3))
        with torch.inference_mode():
            assert len(encoder(torch.rand(1, 3, 32, 32))) == 6

    def test_refuses_a_feature_that_is_overwritten(self) -> None:
        with pytest.raises(EncoderError, match="output of 0 is overwritten"):
            Encoder(of(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)), ["S5"])
        assert Encoder(of(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)), ["1"]).channels == (3, 4)

    def test_refuses_layers_without_a_map(self) -> None:
        with pytest.raises(EncoderError, match="layer head to return one map"):
            Encoder(build_classifier("small", 3), ["S4", "head"])

    def test_refuses_coarse_before_fine(self) -> None:
        with pytest.raises(EncoderError, match=r"got sides stages\.4 3, stages\.1 24 of an image of 96"):
            Encoder(build_classifier("small", 3), ["S5", "S2"])

    def test_refuses_unknown_layers(self) -> None:
        with pytest.raises(ValueError, match="got S7"):
            Encoder(build_classifier("small", 3), ["S7"])

    @pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 31, 64), (1, 3, 64, 16)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="at least 32 pixels a side"):
            Encoder(build_classifier("small", 3))(torch.zeros(shape))

    def test_refuses_integers(self) -> None:
        with pytest.raises(TypeError, match="uint8"):
            Encoder(build_classifier("small", 3))(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))

    @pytest.mark.parametrize("value", ["nan", "inf"])
    @pytest.mark.parametrize("frozen", [True, False])
    def test_refuses_values_that_are_not_finite(self, value: str, frozen: bool) -> None:
        images = torch.rand(1, 3, 32, 32)
        images[0, 1, 2, 3] = float(value)
        with pytest.raises(ValueError, match="finite images, got 1 of 3072"):
            Encoder(build_classifier("small", 3), frozen=frozen)(images)
