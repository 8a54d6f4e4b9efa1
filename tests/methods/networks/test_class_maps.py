import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from methods.networks import ClassifierNetwork, build_classifier, keep_stride
from methods.networks.class_maps import ClassMapError, class_maps


def linear(network: ClassifierNetwork) -> nn.Linear:
    head = network.model.get_submodule(network.head)
    assert isinstance(head, nn.Linear)
    return head


def hooks(network: ClassifierNetwork) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in network.model.modules())


class TestClassMaps:
    @pytest.mark.parametrize(
        "backbone", ["small", "vgg16", "resnet18", "squeezenet1_1", "mobilenet_v2", "inception_v3", "resnet10t"]
    )
    def test_smoke(self, backbone: str) -> None:
        network = build_classifier(backbone, 3)
        images = torch.rand(2, 3, 96, 128)
        maps, logits = class_maps(network, images)
        assert maps.shape[:2] == logits.shape == (2, 3)
        assert torch.equal(logits, network.model(images))
        torch.testing.assert_close(maps.mean(dim=(2, 3)) + linear(network).bias, logits, rtol=1e-3, atol=1e-3)
        assert hooks(network) == 0

    def test_are_the_weights_times_the_last_stage(self) -> None:
        network, images = build_classifier("small", 3), torch.rand(2, 3, 64, 96)
        features = network.model.get_submodule("stages")(images)
        expected = torch.einsum("kc,bchw->bkhw", linear(network).weight, features)
        torch.testing.assert_close(class_maps(network, images)[0], expected)

    def test_finer_grid(self) -> None:
        network = build_classifier("resnet18", 2)
        keep_stride(network, ["S5"])
        assert class_maps(network, torch.rand(1, 3, 64, 64))[0].shape == (1, 2, 4, 4)

    def test_one_pass(self) -> None:
        network, calls = build_classifier("small", 3), []
        network.model.register_forward_hook(lambda *_: calls.append(1))
        class_maps(network, torch.rand(2, 3, 32, 32))
        assert len(calls) == 1

    def test_trains(self) -> None:
        network = build_classifier("small", 3)
        network.model.train()
        before = copy.deepcopy(network.model.state_dict())
        maps, logits = class_maps(network, torch.rand(4, 3, 64, 64))
        assert network.model.training
        maps.square().sum().backward()  # type: ignore[no-untyped-call]
        names = {name for name, one in network.model.named_parameters() if one.grad is not None and one.grad.any()}
        assert {"stages.0.0.weight", "stages.4.0.weight", "head.weight"} <= names
        assert linear(network).bias.grad is None
        assert logits.requires_grad
        after = network.model.state_dict()
        assert not torch.equal(after["stages.0.1.running_mean"], before["stages.0.1.running_mean"])

    def test_dropout_reaches_the_logits_alone(self) -> None:
        network = build_classifier("mobilenet_v2", 3)
        for one in network.model.modules():
            if isinstance(one, nn.Dropout):
                one.train()
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            (first, first_logits), (second, second_logits) = class_maps(network, images), class_maps(network, images)
        assert torch.equal(first, second)
        assert not torch.equal(first_logits, second_logits)

    def test_threads_do_not_mix(self) -> None:
        network = build_classifier("small", 3)
        batches = [torch.rand(1, 3, 64, 64) for _ in range(40)]
        with torch.no_grad():
            alone = [class_maps(network, batch)[0] for batch in batches]
        network.model.requires_grad_(False)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda batch: class_maps(network, batch)[0], batches))
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other)

    def test_half_precision(self) -> None:
        network = build_classifier("small", 3)
        network.model.to(torch.bfloat16)
        maps, logits = class_maps(network, torch.rand(2, 3, 64, 64).to(torch.bfloat16))
        assert maps.dtype == logits.dtype == torch.bfloat16

    def test_values_that_are_not_finite_are_left_to_others(self) -> None:
        network = build_classifier("small", 3)
        maps, _ = class_maps(network, torch.full((1, 3, 32, 32), float("nan")))
        assert maps.isnan().all()


class TestRefusals:
    @pytest.mark.parametrize("backbone", ["vgg16", "convnext_atto"])
    @pytest.mark.parametrize("training", [False, True])
    def test_more_in_between(self, backbone: str, training: bool) -> None:
        network = build_classifier(backbone, 3, head="native")
        network.model.train(training)
        message = rf"expected a linear head right on the average of S5, {backbone} computes more in between: use vgg16"
        with pytest.raises(ClassMapError, match=message):
            class_maps(network, torch.rand(2, 3, 64, 64))
        assert hooks(network) == 0

    def test_a_convolution_as_head(self) -> None:
        with pytest.raises(ClassMapError, match="squeezenet1_1 has a Conv2d"):
            class_maps(build_classifier("squeezenet1_1", 3, head="native"), torch.rand(1, 3, 64, 64))

    def test_a_stage_without_a_map(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        network = ClassifierNetwork("own", 2, model.eval(), {"S5": "2"}, "3", ())
        with pytest.raises(ClassMapError, match=r"own returns no map \[B, C, h, w\] there"):
            class_maps(network, torch.rand(1, 3, 8, 8))

    def test_an_error_of_the_network_leaves_no_hook(self) -> None:
        network = build_classifier("small", 3)
        with pytest.raises(RuntimeError):
            class_maps(network, torch.rand(1, 5, 64, 64))
        assert hooks(network) == 0
