from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from methods.networks import build_classifier, pooled_features, resolve_layers


class TestResolveLayers:
    def test_smoke(self) -> None:
        network = build_classifier("resnet18", 2)
        assert resolve_layers(network, ["S5", "layer2", "layer1.0.relu"]) == ["layer4", "layer2", "layer1.0.relu"]

    def test_before_the_pools(self) -> None:
        network = build_classifier("vgg16", 2)
        assert resolve_layers(network, ["S5_pre", "S5", "S1_pre"]) == ["features.29", "features.30", "features.3"]
        assert set(network.stages) == {"S1", "S2", "S3", "S4", "S5"}
        with pytest.raises(ValueError, match=r"S5 \(features\.30\), S1_pre \(features\.3\).*got S6_pre"):
            resolve_layers(network, ["S6_pre"])
        with pytest.raises(ValueError, match="got S5_pre"):
            resolve_layers(build_classifier("resnet18", 2), ["S5_pre"])

    @pytest.mark.parametrize("layers", [["S6"], ["layer9"], [""], []])
    def test_refuses_unknown_and_lists_valid(self, layers: list[str]) -> None:
        with pytest.raises(ValueError, match=r"S1 \(maxpool\).*S5 \(layer4\).*such as conv1"):
            resolve_layers(build_classifier("resnet18", 2), layers)

    def test_refuses_one_layer_under_two_names(self) -> None:
        with pytest.raises(ValueError, match=r"each once, got stages\.4, stages\.4"):
            resolve_layers(build_classifier("small", 2), ["S5", "stages.4"])


class TestPooledFeatures:
    @pytest.mark.parametrize("backbone", ["small", "resnet18", "squeezenet1_1", "mobilenet_v2", "resnet10t"])
    def test_smoke(self, backbone: str) -> None:
        network = build_classifier(backbone, 3)
        images = torch.rand(2, 3, 64, 64)
        features = pooled_features(network, images)
        head = network.model.get_submodule(network.head)
        assert not features.requires_grad
        torch.testing.assert_close(head(features), network.model(images))
        assert not head._forward_pre_hooks

    def test_features_can_train_a_head(self) -> None:
        network = build_classifier("small", 3)
        features = pooled_features(network, torch.rand(2, 3, 64, 64))
        head = network.model.get_submodule(network.head)
        head(features).sum().backward()
        assert head.weight.grad.any()

    def test_threads_do_not_mix(self) -> None:
        network = build_classifier("small", 3)
        batches = [torch.rand(1, 3, 64, 64) for _ in range(40)]
        alone = [pooled_features(network, batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda batch: pooled_features(network, batch), batches))
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other)

    def test_leaves_no_hook_after_an_error(self) -> None:
        network = build_classifier("small", 3)
        with pytest.raises(RuntimeError):
            pooled_features(network, torch.rand(1, 4, 64, 64))
        assert not network.model.get_submodule("head")._forward_pre_hooks

    def test_refuses_training_mode(self) -> None:
        network = build_classifier("small", 3)
        network.model.train()
        with pytest.raises(ValueError, match="evaluation mode"):
            pooled_features(network, torch.rand(2, 3, 64, 64))

    def test_refuses_a_convolution_as_head(self) -> None:
        with pytest.raises(ValueError, match=r"Conv2d 'classifier\.1'.*head: gap"):
            pooled_features(build_classifier("squeezenet1_1", 3, head="native"), torch.rand(1, 3, 64, 64))
