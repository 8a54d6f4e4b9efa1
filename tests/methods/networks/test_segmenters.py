import pytest
import torch
from torch import nn

from methods.networks import ClassifierNetwork, SmallNet, build_classifier, keep_stride
from methods.networks.joint_network import JointNetwork
from methods.networks.segmenters import SEGMENTERS, TorchvisionDeepLabV3, build_segmenter, new_parts
from methods.training import parameter_groups

ANY = ("deeplabv3plus", "unet")


def build(name: str, classifier: ClassifierNetwork | None = None, classes: int = 3) -> nn.Module:
    width = 256 if name == "deeplabv3_resnet50" else 16
    return build_segmenter(name, classifier or build_classifier("small", 3), classes, width=width)


class TestBuildSegmenter:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47)])
    @pytest.mark.parametrize("name", SEGMENTERS)
    def test_smoke(self, name: str, size: tuple[int, int]) -> None:
        network = build(name)
        assert not any(module.training for module in network.modules())
        logits = network(torch.rand(2, 3, *size))
        assert logits.shape == (2, 4, *size)
        assert logits.isfinite().all()

    @pytest.mark.parametrize("backbone", ["vgg16", "resnet18", "mobilenet_v2", "resnet10t"])
    @pytest.mark.parametrize("name", ANY)
    def test_backbones(self, name: str, backbone: str) -> None:
        network = build(name, build_classifier(backbone, 2), classes=1)
        assert network(torch.rand(1, 3, 40, 33)).shape == (1, 2, 40, 33)

    @pytest.mark.parametrize("name", ANY)
    def test_finer_grids(self, name: str) -> None:
        classifier = build_classifier("resnet18", 2)
        keep_stride(classifier)
        assert build(name, classifier)(torch.rand(1, 3, 40, 33)).shape == (1, 4, 40, 33)

    @pytest.mark.parametrize("name", SEGMENTERS)
    def test_a_batch_is_its_images(self, name: str) -> None:
        network, images = build(name), torch.rand(2, 3, 45, 40)
        with torch.no_grad():
            expected = torch.cat([network(one[None]) for one in images])
            torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("name", SEGMENTERS)
    def test_gradients_reach_the_first_layer(self, name: str) -> None:
        network = build(name).train()
        network(torch.rand(2, 3, 45, 40)).square().mean().backward()
        first = next(network.parameters())
        assert first.grad is not None
        assert first.grad.any()

    @pytest.mark.parametrize("name", ANY)
    def test_trains_on_one_image(self, name: str) -> None:
        network = build(name).train()
        network(torch.rand(1, 3, 32, 32)).sum().backward()

    @pytest.mark.parametrize("name", SEGMENTERS)
    def test_mixed_precision(self, name: str) -> None:
        network = build(name).train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.rand(2, 3, 45, 40))
        logits.float().square().mean().backward()
        assert logits.isfinite().all()

    @pytest.mark.parametrize("name", SEGMENTERS)
    def test_state_loads_strictly(self, name: str) -> None:
        network, other, images = build(name), build(name), torch.rand(1, 3, 45, 40)
        other.load_state_dict(network.state_dict(), strict=True)
        assert torch.equal(other(images), network(images))

    def test_resnet50_gives_its_weights(self) -> None:
        classifier = build_classifier("resnet50", 2)
        nn.init.constant_(classifier.model.get_parameter("layer4.2.conv3.weight"), 0.25)
        network = build("deeplabv3_resnet50", classifier)
        assert isinstance(network, TorchvisionDeepLabV3)
        assert network.inherited
        found, given = network.model.backbone.state_dict(), classifier.model.state_dict()
        assert set(given) - set(found) == {"fc.weight", "fc.bias"}
        assert all(torch.equal(found[name], given[name]) for name in found)
        assert not any(found[name].data_ptr() == given[name].data_ptr() for name in found)

    def test_resnet50_refuses_one_image_in_training(self) -> None:
        with pytest.raises(ValueError, match="two images or more in training, got 1"):
            build("deeplabv3_resnet50").train()(torch.rand(1, 3, 32, 32))

    @pytest.mark.parametrize("name", SEGMENTERS)
    def test_refuses_images(self, name: str) -> None:
        network = build(name)
        with pytest.raises(ValueError, match="at least 32 pixels"):
            network(torch.rand(1, 3, 31, 40))
        with pytest.raises(ValueError, match="finite"):
            network(torch.full((1, 3, 32, 32), float("inf")))
        with pytest.raises(TypeError, match="uint8"):
            network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))

    @pytest.mark.parametrize("name", SEGMENTERS)
    def test_refuses_no_class(self, name: str) -> None:
        with pytest.raises(ValueError, match="at least one class"):
            build(name, classes=0)

    def test_refuses_unknown_names(self) -> None:
        with pytest.raises(ValueError, match="deeplabv3plus, deeplabv3_resnet50, unet, got 'fcn'"):
            build("fcn")

    def test_refuses_a_width_that_torchvision_does_not_have(self) -> None:
        with pytest.raises(ValueError, match="expected width 256 for deeplabv3_resnet50"):
            build_segmenter("deeplabv3_resnet50", build_classifier("small", 2), 2, width=128)


class TestNewParts:
    @pytest.mark.parametrize("name", ANY)
    def test_all_but_the_encoder(self, name: str) -> None:
        network = build(name)
        rates = [group["lr"] for group in parameter_groups(network, new_parts(network), rate=1, decay=0)]
        groups = parameter_groups(network, new_parts(network), rate=1, decay=0)
        trained = {id(one) for group in groups[:2] for one in group["params"]}
        assert rates == [1, 2, 10, 20]
        assert trained == {id(one) for one in network.get_submodule("encoder").parameters()}

    def test_of_deeplab(self) -> None:
        assert new_parts(build("deeplabv3plus")) == ["context", "edges", "joined", "head"]

    def test_of_a_joint_network(self) -> None:
        network = JointNetwork(build_classifier("small", 2), width=8, low_width=8)
        parts = ["context", "edges", "joined", "head"]
        assert new_parts(network) == [*(f"segmenter.{part}" for part in parts), "classifier"]

    def test_of_torchvision(self) -> None:
        assert new_parts(build("deeplabv3_resnet50", build_classifier("resnet50", 2))) == ["model.classifier"]

    def test_all_where_nothing_was_trained(self) -> None:
        assert new_parts(build("deeplabv3_resnet50")) == [""]
        assert new_parts(SmallNet(2)) == [""]
