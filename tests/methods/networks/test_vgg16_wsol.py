import pytest
import torch
from torch import nn

from methods.activation import record
from methods.networks import build_classifier, load_backbone, load_classifier, pooled_features
from methods.networks.encoder import Encoder
from methods.networks.vgg16_wsol import Vgg16Wsol, build_vgg16_wsol


class TestVgg16Wsol:
    def test_smoke(self) -> None:
        assert Vgg16Wsol(5).eval()(torch.rand(2, 3, 32, 40)).shape == (2, 5)

    def test_refuses_no_class(self) -> None:
        with pytest.raises(ValueError, match="at least one class, got 0"):
            Vgg16Wsol(0)


class TestBuildVgg16Wsol:
    def test_smoke(self) -> None:
        network = build_vgg16_wsol(3)
        images = torch.rand(1, 3, 48, 64)
        assert not network.model.training
        assert pooled_features(network, images).shape == (1, 1024)
        found = record(network.model, images, torch.tensor([[0, 1]]), list(network.stages.values()))
        sizes = [tuple(values.shape[1:]) for values in found.activations.values()]
        assert sizes == [(128, 12, 16), (256, 6, 8), (512, 6, 8), (1024, 6, 8)]

    def test_names_of_rectifiers_before_the_pools(self) -> None:
        network = build_vgg16_wsol(3)
        for pre, name in network.pre_pool.items():
            assert isinstance(network.model.get_submodule(name), nn.ReLU)
            assert isinstance(network.model.get_submodule(network.stages[pre.removesuffix("_pre")]), nn.MaxPool2d)

    def test_encodes_as_the_decoder_of_f_cam_expects(self) -> None:
        encoder = Encoder(build_vgg16_wsol(3))
        assert encoder.channels == (3, 128, 256, 1024)
        features = encoder(torch.rand(1, 3, 64, 64))
        assert [64 // feature.shape[2] for feature in features] == [1, 2, 4, 8]

    def test_published_weights_fit(self) -> None:
        network, published = build_vgg16_wsol(3), build_classifier("vgg16", 5)
        own = {key: value.clone() for key, value in network.model.state_dict().items()}
        load_backbone(network, published.model.state_dict(), "vgg16")
        loaded = network.model.state_dict()
        for key, value in published.model.state_dict().items():
            if key.startswith("features"):
                assert torch.equal(loaded[key], value)
        for key in ("conv6.0.weight", "classifier.weight"):
            assert torch.equal(loaded[key], own[key])

    def test_own_weights_fit(self) -> None:
        one, other = build_vgg16_wsol(3), build_vgg16_wsol(3)
        load_classifier(other, one.model.state_dict(), "own")
        images = torch.rand(1, 3, 32, 32)
        assert torch.equal(one.model(images), other.model(images))
