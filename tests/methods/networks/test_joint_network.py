import pytest
import torch
from torch import nn

from methods.networks import ClassifierNetwork, build_classifier, class_maps, keep_stride
from methods.networks.joint_network import JointNetwork


def joint(classifier: ClassifierNetwork | None = None, classes: int | None = None) -> JointNetwork:
    return JointNetwork(classifier or build_classifier("small", 3), classes, width=16, low_width=8)


class TestJointNetwork:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (101, 64)])
    def test_smoke(self, size: tuple[int, int]) -> None:
        network = joint()
        assert not network.training
        found = network(torch.rand(2, 3, *size))
        assert found.class_maps.shape == (2, 3, size[0] // 32, size[1] // 32)
        assert found.class_logits.shape == (2, 3)
        assert found.logits.shape == (2, 4, *size)
        assert [feature.shape[1] for feature in found.features] == [24, 48, 96, 128, 160]
        assert (found.class_maps < 0).any() or (found.class_maps > 0).any()

    @pytest.mark.parametrize("backbone", ["small", "vgg16", "resnet18", "mobilenet_v2", "squeezenet1_1", "resnet10t"])
    def test_begins_with_the_maps_of_the_classifier(self, backbone: str) -> None:
        classifier, images = build_classifier(backbone, 3), torch.rand(2, 3, 64, 96)
        expected, logits = class_maps(classifier, images)
        network = joint(classifier)
        found = network(images)
        assert network.inherited
        torch.testing.assert_close(found.class_maps, expected)
        head = classifier.model.get_submodule(classifier.head)
        assert isinstance(head, nn.Linear)
        torch.testing.assert_close(found.class_logits + head.bias, logits, rtol=1e-3, atol=1e-4)

    def test_begins_with_the_convolution_of_a_native_squeezenet(self) -> None:
        classifier = build_classifier("squeezenet1_1", 3, head="native")
        network = joint(classifier)
        assert network.inherited
        expected = classifier.model.get_submodule(classifier.head).weight
        assert torch.equal(network.classifier.weight, expected)  # type: ignore[arg-type]

    def test_other_classes_begin_anew(self) -> None:
        network = joint(classes=2)
        assert not network.inherited
        found = network(torch.rand(1, 3, 32, 32))
        assert (found.class_logits.shape[1], found.logits.shape[1]) == (2, 3)

    def test_weights_are_a_copy(self) -> None:
        classifier = build_classifier("small", 3)
        head = classifier.model.get_submodule("head")
        network = joint(classifier)
        nn.init.zeros_(network.classifier.weight)
        assert isinstance(head, nn.Linear)
        assert head.weight.any()
        pointers = [one.data_ptr() for one in network.state_dict().values() if one.numel() > 1]
        assert len(set(pointers)) == len(pointers)

    def test_agrees_with_its_segmenter_and_its_maps(self) -> None:
        network, images = joint(), torch.rand(2, 3, 65, 40)
        found = network(images)
        assert torch.equal(found.logits, network.segmenter(images))
        torch.testing.assert_close(found.class_logits, found.class_maps.mean(dim=(2, 3)))
        assert all(torch.equal(*pair) for pair in zip(found.features, network.segmenter.features(images), strict=True))

    def test_one_pass(self) -> None:
        network, calls = joint(), []
        network.segmenter.encoder.model.register_forward_hook(lambda *_: calls.append(1))
        network(torch.rand(2, 3, 32, 32))
        assert len(calls) == 1

    def test_published_grid(self) -> None:
        classifier = build_classifier("resnet18", 2)
        keep_stride(classifier, ["S5"])
        network = joint(classifier)
        found = network(torch.rand(1, 3, 64, 96))
        assert found.class_maps.shape == (1, 2, 4, 6)
        assert [feature.shape[2] for feature in found.features] == [16, 16, 8, 4, 4]
        assert network.segmenter.low == 1

    def test_a_batch_is_its_images(self) -> None:
        network, images = joint(), torch.rand(3, 3, 45, 64)
        whole, single = network(images), [network(one[None]) for one in images]
        for name in ("class_maps", "class_logits", "logits"):
            expected = torch.cat([getattr(one, name) for one in single])
            torch.testing.assert_close(getattr(whole, name), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("part", ["class_maps", "class_logits", "logits"])
    def test_gradients_reach_the_encoder(self, part: str) -> None:
        network = joint().train()
        getattr(network(torch.rand(1, 3, 64, 64)), part).square().sum().backward()
        gradient = network.segmenter.encoder.model.get_parameter("stages.0.0.weight").grad
        assert gradient is not None
        assert gradient.any()

    def test_mixed_precision(self) -> None:
        network = joint().train()
        with torch.autocast("cpu", torch.bfloat16):
            found = network(torch.rand(2, 3, 45, 64))
        (found.logits.float().mean() + found.class_logits.float().mean()).backward()
        assert found.logits.isfinite().all()

    def test_state_loads_strictly(self) -> None:
        network, other, images = joint(), joint(), torch.rand(1, 3, 48, 33)
        other.load_state_dict(network.state_dict(), strict=True)
        assert torch.equal(other(images).logits, network(images).logits)
        assert torch.equal(other(images).class_maps, network(images).class_maps)

    def test_refuses_no_class(self) -> None:
        with pytest.raises(ValueError, match="at least one class, got 0"):
            joint(classes=0)
