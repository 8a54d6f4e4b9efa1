import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.networks import build_classifier
from methods.networks.decoder_network import DecoderNetwork, UNet
from methods.networks.stride import keep_stride
from methods.networks.vgg16_wsol import build_vgg16_wsol

NETWORKS = [DecoderNetwork, UNet]
WIDTHS = (12, 10, 8, 6, 5)


def small(kind: type[UNet] = DecoderNetwork) -> UNet:
    return kind(build_classifier("small", 3), widths=WIDTHS)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def step(network: UNet, seed: int = 0) -> None:
    """Train once, with weight decay, which would shrink whatever an optimiser holds."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(network.learnable(), lr=0.1, momentum=0.9, weight_decay=0.1)
    network.train()
    loss = network(torch.rand(2, 3, 40, 40, generator=generator)).square().mean()
    loss.backward()
    optimiser.step()


class TestDecoderNetwork:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40), (101, 32)])
    @pytest.mark.parametrize("kind", NETWORKS)
    def test_smoke(self, kind: type[UNet], size: tuple[int, int]) -> None:
        network = small(kind)
        images = torch.rand(2, 3, *size)
        assert network(images).shape == (2, 2, *size)
        probability = network.foreground(images)
        assert probability.shape == (2, *size)
        torch.testing.assert_close(probability, network(images).detach().softmax(dim=1)[:, 1])
        assert not probability.requires_grad

    @pytest.mark.parametrize("backbone", ["vgg16", "resnet18", "inception_v3", "squeezenet1_1", "mobilenet_v2"])
    def test_backbones(self, backbone: str) -> None:
        side = 80 if backbone == "inception_v3" else 33
        network = DecoderNetwork(build_classifier(backbone, 3))
        assert network(torch.rand(1, 3, side, side + 7)).shape == (1, 2, side, side + 7)

    def test_published_sizes(self) -> None:
        resnet = build_classifier("resnet50", 3)
        keep_stride(resnet)
        network = DecoderNetwork(resnet)
        assert sum(parameter.numel() for parameter in network.learnable()) == 9_013_218
        vgg = DecoderNetwork(build_vgg16_wsol(3), center=True)
        assert round(sum(parameter.numel() for parameter in vgg.learnable()) / 1e6, 1) == 23.1
        for built in (network, vgg):
            assert built(torch.rand(1, 3, 40, 32)).shape == (1, 2, 40, 32)

    def test_training_leaves_the_classifier_alone(self) -> None:
        classifier = build_classifier("small", 3)
        network = DecoderNetwork(classifier, widths=WIDTHS)
        images = torch.rand(1, 3, 64, 64)
        before, logits = copy.deepcopy(classifier.model.state_dict()), classifier.model(images)
        own = copy.deepcopy(network.decoder.state_dict() | network.head.state_dict())
        for seed in range(3):
            step(network, seed)
        assert network.training
        assert not any(module.training for module in classifier.model.modules())
        assert same(classifier.model.state_dict(), before)
        assert torch.equal(classifier.model(images), logits)
        assert all(parameter.grad is None for parameter in classifier.model.parameters())
        changed = network.decoder.state_dict() | network.head.state_dict()
        assert not any(torch.equal(changed[key], own[key]) for key in own)

    def test_the_classifier_switched_by_others_still_does_not_learn(self) -> None:
        classifier = build_classifier("small", 3)
        network = DecoderNetwork(classifier, widths=WIDTHS)
        before = copy.deepcopy(classifier.model.state_dict())
        classifier.model.train()
        network(torch.rand(2, 3, 32, 32))
        assert same(classifier.model.state_dict(), before)

    def test_an_optimiser_of_all_parameters_leaves_the_classifier_alone(self) -> None:
        classifier = build_classifier("small", 3)
        network = DecoderNetwork(classifier, widths=WIDTHS).train()
        before = copy.deepcopy(classifier.model.state_dict())
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
        network(torch.rand(2, 3, 32, 32)).sum().backward()
        optimiser.step()
        assert same(classifier.model.state_dict(), before)

    def test_images_get_no_gradient_through_the_classifier(self) -> None:
        images = torch.rand(1, 3, 32, 32, requires_grad=True)
        small()(images).sum().backward()
        assert images.grad is None

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_saves_and_loads_by_safetensors(self, kind: type[UNet], tmp_path: Path) -> None:
        network, other = small(kind), small(kind)
        step(network)
        save_file(network.state_dict(), tmp_path / "network.safetensors")
        other.load_state_dict(load_file(tmp_path / "network.safetensors"))
        images = torch.rand(1, 3, 48, 33)
        assert torch.equal(other.foreground(images), network.eval().foreground(images))

    def test_channels_last(self) -> None:
        network, images = small(), torch.rand(2, 3, 45, 64)
        expected = network.foreground(images)
        network.to(memory_format=torch.channels_last)
        found = network.foreground(images.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected)

    def test_half_precision(self) -> None:
        network, images = small(), torch.rand(2, 3, 64, 64)
        expected = network.foreground(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network.foreground(images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0.1)

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_is_built_in_evaluation_mode(self, kind: type[UNet]) -> None:
        classifier = build_classifier("small", 3)
        classifier.model.train()
        assert not any(module.training for module in kind(classifier, widths=WIDTHS).modules())

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_refuses_foreground_while_training(self, kind: type[UNet]) -> None:
        network = small(kind).train()
        with pytest.raises(ValueError, match=r"call eval\(\) first"):
            network.foreground(torch.rand(1, 3, 32, 32))

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_refuses_values_that_are_not_finite(self, kind: type[UNet]) -> None:
        with pytest.raises(ValueError, match="finite images"):
            small(kind).foreground(torch.full((1, 3, 32, 32), float("nan")))

    def test_refuses_small_images(self) -> None:
        with pytest.raises(ValueError, match="at least 32 pixels"):
            small()(torch.rand(1, 3, 32, 31))

    def test_refuses_widths_that_do_not_match(self) -> None:
        with pytest.raises(ValueError, match="one width a feature; got"):
            DecoderNetwork(build_classifier("small", 3), widths=(8, 4))


class TestUNet:
    def test_everything_but_the_classifiers_head_learns(self) -> None:
        network = small(UNet)
        before = copy.deepcopy(network.state_dict())
        step(network)
        after = network.state_dict()
        unchanged = {key for key in before if torch.equal(before[key], after[key])}
        assert unchanged == {"encoder.model.head.weight", "encoder.model.head.bias"}

    def test_images_get_gradients(self) -> None:
        images = torch.rand(1, 3, 32, 32, requires_grad=True)
        small(UNet)(images).sum().backward()
        assert images.grad is not None
        assert images.grad.any()
