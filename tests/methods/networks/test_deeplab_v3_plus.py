import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.networks import build_classifier, keep_stride
from methods.networks.deeplab_v3_plus import DeepLabV3Plus
from methods.networks.encoder import EncoderError

LAYERS = ("stages.1", "stages.4")


def small(classes: int = 3) -> DeepLabV3Plus:
    return DeepLabV3Plus(build_classifier("small", classes), classes, width=16, low_width=8)


def backward(network: DeepLabV3Plus, images: torch.Tensor) -> None:
    network(images).square().mean().backward()


class TestDeepLabV3Plus:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40), (101, 32)])
    @pytest.mark.parametrize("training", [False, True])
    def test_smoke(self, size: tuple[int, int], training: bool) -> None:
        network = small()
        assert not network.training
        logits = network.train(training)(torch.rand(2, 3, *size))
        assert logits.shape == (2, 4, *size)
        assert logits.isfinite().all()

    @pytest.mark.parametrize(
        ("backbone", "low"),
        [
            ("small", "stages.1"),
            ("resnet18", "layer1"),
            ("vgg16", "features.15"),
            ("mobilenet_v2", "features.3"),
            ("inception_v3", "Conv2d_4a_3x3"),
            ("squeezenet1_1", "features.4"),
            ("resnet10t", "layer1"),
        ],
    )
    def test_backbones(self, backbone: str, low: str) -> None:
        network = DeepLabV3Plus(build_classifier(backbone, 2), 2, width=16, low_width=8)
        side = 80 if backbone == "inception_v3" else 33
        assert network(torch.rand(1, 3, side, side + 7)).shape == (1, 3, side, side + 7)
        assert network.encoder.layers[network.low] == low

    def test_low_feature_of_all_stages_is_the_residual_one(self) -> None:
        classifier = build_classifier("resnet18", 2)
        network = DeepLabV3Plus(classifier, 2, tuple(classifier.stages), width=8, low_width=8)
        assert network.encoder.layers[:2] == ("maxpool", "layer1")
        assert network.low == 1

    def test_low_feature_where_nothing_is_coarse_enough_is_the_last_but_one(self) -> None:
        network = DeepLabV3Plus(build_classifier("small", 2), 2, ("S1", "S5"), width=8, low_width=8)
        assert network.low == 0

    def test_published_widths(self) -> None:
        classifier = build_classifier("resnet50", 20)
        keep_stride(classifier, ["S5"])
        network = DeepLabV3Plus(classifier, 20)
        assert network.get_parameter("edges.0.weight").shape == (256, 256, 1, 1)
        assert network.get_parameter("joined.0.0.weight").shape == (256, 512, 3, 3)
        assert network.get_parameter("joined.1.0.weight").shape == (256, 256, 3, 3)
        assert network.head.weight.shape == (21, 256, 1, 1)
        assert [feature.shape[-1] for feature in network.features(torch.rand(1, 3, 64, 64))] == [32, 16, 8, 4, 4]
        network = DeepLabV3Plus(classifier, 20, low_width=48)
        assert network.get_parameter("joined.0.0.weight").shape == (256, 304, 3, 3)

    def test_forward_is_decode_of_features(self) -> None:
        network, images = small(), torch.rand(2, 3, 45, 64)
        assert torch.equal(network.decode(network.features(images), (45, 64)), network(images))

    def test_a_batch_is_its_images(self) -> None:
        network, images = small(), torch.rand(3, 3, 45, 64)
        expected = torch.cat([network(one[None]) for one in images])
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)

    def test_gradients_reach_the_encoder_of_one_image(self) -> None:
        network = small().train()
        backward(network, torch.rand(1, 3, 64, 64))
        missing = {
            name for name, one in network.named_parameters() if one.grad is None or not one.grad.isfinite().all()
        }
        assert missing == {"encoder.model.head.weight", "encoder.model.head.bias"}
        assert network.encoder.model.get_parameter("stages.0.0.weight").grad.any()  # type: ignore[union-attr]

    def test_learns(self) -> None:
        torch.manual_seed(0)
        network, target = small(1).train(), torch.zeros(2, 48, 64, dtype=torch.long)
        target[0, :, 32:], target[1, 16:] = 1, 1
        images = torch.rand(2, 3, 48, 64) + target[:, None]
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        losses = []
        for _ in range(20):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    def test_building_leaves_the_classifier_alone(self) -> None:
        classifier = build_classifier("small", 3)
        classifier.model.train()
        before = copy.deepcopy(classifier.model.state_dict())
        network = DeepLabV3Plus(classifier, 3, width=8, low_width=8)
        after = classifier.model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert network.encoder.model is classifier.model

    def test_mixed_precision(self) -> None:
        network, images = small().train(), torch.rand(2, 3, 45, 64)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        logits.float().square().mean().backward()
        assert logits.isfinite().all()
        network.eval()
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(images)
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())

    def test_double_precision(self) -> None:
        classifier = build_classifier("small", 3)
        classifier.model.double()
        network = DeepLabV3Plus(classifier, 3, width=8, low_width=8).double()
        assert network(torch.rand(1, 3, 33, 32, dtype=torch.float64)).dtype == torch.float64

    def test_saves_and_loads_by_safetensors(self, tmp_path: Path) -> None:
        network, other, images = small(), small(), torch.rand(1, 3, 48, 33)
        save_file(network.state_dict(), tmp_path / "network.safetensors")
        other.load_state_dict(load_file(tmp_path / "network.safetensors"), strict=True)
        assert torch.equal(other(images), network(images))

    def test_refuses_no_class(self) -> None:
        with pytest.raises(ValueError, match="at least one class, got 0"):
            DeepLabV3Plus(build_classifier("small", 2), 0)

    def test_refuses_layers(self) -> None:
        classifier = build_classifier("small", 2)
        with pytest.raises(ValueError, match="two layers or more"):
            DeepLabV3Plus(classifier, 2, ["S5"])
        with pytest.raises(EncoderError, match="fine to coarse"):
            DeepLabV3Plus(classifier, 2, LAYERS[::-1])

    def test_refuses_other_features(self) -> None:
        network = small()
        features = network.features(torch.rand(1, 3, 32, 32))
        for wrong in (features[1:], features[::-1], []):
            with pytest.raises(ValueError, match=r"channels \(24, 48, 96, 128, 160\), got shapes"):
                network.decode(wrong, (32, 32))

    def test_refuses_images(self) -> None:
        with pytest.raises(ValueError, match="at least 32 pixels"):
            small()(torch.rand(1, 3, 31, 64))
        with pytest.raises(ValueError, match="finite"):
            small()(torch.full((1, 3, 32, 32), float("nan")))
