import copy

import pytest
import torch
from torch import nn

from methods.networks.affinity_net import AffinityNet, grid_side
from methods.networks.classifiers import build_classifier
from methods.networks.stride import keep_stride


def built(backbone: str = "small", *, frozen: bool = True) -> AffinityNet:
    torch.manual_seed(0)
    return AffinityNet(build_classifier(backbone, 3), frozen=frozen)


class TestAffinityNet:
    @pytest.mark.parametrize("backbone", ["small", "resnet18", "squeezenet1_1"])
    def test_smoke(self, backbone: str) -> None:
        network = built(backbone)
        logits = network(torch.rand(2, 3, 45, 70))
        assert logits.shape == (2, 1, 12, 18)
        assert logits.isfinite().all()

    def test_the_published_network(self) -> None:
        classifier = build_classifier("resnet50", 20)
        keep_stride(classifier, ["S5"])
        network = AffinityNet(classifier)
        features = network.encoder(torch.zeros(1, 3, 64, 64))[1:]
        assert network.encoder.channels[1:] == (64, 256, 512, 1024, 2048)
        assert [64 // feature.shape[-1] for feature in features] == [4, 4, 8, 16, 16]
        assert network.edge.in_channels == 160
        assert network.edge.bias is not None

    def test_branches(self) -> None:
        for branch in built().branches:
            convolution, norm = branch.children()
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.GroupNorm)
            assert convolution.bias is None
            assert convolution.kernel_size == (1, 1)
            assert (norm.num_groups, norm.num_channels) == (4, 32)

    def test_only_branches_learn(self) -> None:
        network = built().train()
        before = copy.deepcopy(network.encoder.state_dict())
        learnable = list(network.learnable())
        gradients = torch.autograd.grad(network(torch.rand(2, 3, 32, 32)).square().sum(), learnable)
        assert len(learnable) == 5 * 3 + 2
        assert all(gradient.any() for gradient in gradients)
        assert all(torch.equal(value, before[key]) for key, value in network.encoder.state_dict().items())

    def test_unfrozen_learns(self) -> None:
        network = built(frozen=False).train()
        weight = network.encoder.model.get_parameter("stages.0.0.weight")
        (gradient,) = torch.autograd.grad(network(torch.rand(2, 3, 32, 32)).square().sum(), [weight])
        assert gradient.any()

    def test_fewer_layers(self) -> None:
        network = AffinityNet(build_classifier("small", 3), ["S2", "S4"])
        assert len(network.branches) == 2
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 1, 8, 8)

    def test_refuses_unknown_layers(self) -> None:
        with pytest.raises(ValueError, match="got S7"):
            AffinityNet(build_classifier("small", 3), ["S7"])


class TestEdges:
    def test_smoke(self) -> None:
        edges = built().edges(torch.rand(2, 3, 45, 21), side=64)
        assert edges.shape == (2, 12, 6)
        assert not edges.requires_grad
        assert ((edges > 0) & (edges < 1)).all()

    def test_is_the_mean_of_both_logits(self) -> None:
        network, images = built(), torch.rand(1, 3, 64, 32)
        mean = (network(images) + network(images.flip(-1)).flip(-1)) / 2
        torch.testing.assert_close(network.edges(images, side=32)[:, None], mean.detach().sigmoid())

    def test_mirrored_is_mirrored(self) -> None:
        network, images = built(), torch.rand(1, 3, 32, 64)
        found = network.edges(images.flip(-1), side=32).flip(-1)
        torch.testing.assert_close(found, network.edges(images, side=32))

    def test_images_do_not_depend_on_each_other(self) -> None:
        network, images = built(), torch.rand(3, 3, 40, 40)
        one = torch.cat([network.edges(image, side=64) for image in images[:, None]])
        torch.testing.assert_close(one, network.edges(images, side=64))

    def test_padding_is_on_the_right_and_below(self) -> None:
        network, images = built(), torch.rand(1, 3, 40, 36)
        padded = torch.zeros(1, 3, 64, 64)
        padded[..., :40, :36] = images
        torch.testing.assert_close(network.edges(images, side=33), network.edges(padded, side=1)[:, :10, :9])

    def test_half_precision(self) -> None:
        network = built().bfloat16()
        assert network.edges(torch.rand(1, 3, 32, 32).bfloat16(), side=32).dtype == torch.float32

    def test_refuses_training_mode(self) -> None:
        with pytest.raises(ValueError, match="call eval"):
            built().train().edges(torch.rand(1, 3, 32, 32))

    @pytest.mark.parametrize(("shape", "side"), [((3, 32, 32), 32), ((1, 3, 32, 32), 0), ((1, 1, 32, 32), 32)])
    def test_refuses_other_shapes(self, shape: tuple[int, ...], side: int) -> None:
        with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\]"):
            built().edges(torch.zeros(shape), side=side)

    @pytest.mark.parametrize("pixels", range(1, 40))
    def test_grid(self, pixels: int) -> None:
        assert grid_side(pixels) == (pixels - 1) // 4 + 1
