import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from methods.networks import WeightsError, build_classifier, load_backbone, load_classifier


def _squeezenet_input(path: Path) -> Tensor:
    """Short side 256, central 224, BGR minus its mean: what the shared weights were trained for."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    ratio = 256 / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BILINEAR)
    x, y = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = torch.from_numpy(np.array(image.crop((x, y, x + 224, y + 224)))).permute(2, 0, 1)
    return pixels.flip(0).float() - torch.tensor([104.0, 117.0, 123.0])[:, None, None]


class TestLoadClassifier:
    def test_smoke(self) -> None:
        one, other = build_classifier("small", 3), build_classifier("small", 3)
        load_classifier(other, one.model.state_dict(), "memory")
        images = torch.rand(1, 3, 32, 32)
        assert torch.equal(one.model(images), other.model(images))

    def test_half_precision_is_cast(self) -> None:
        network = build_classifier("small", 3)
        half = {key: value.half() for key, value in network.model.state_dict().items()}
        load_classifier(network, half, "half")
        assert {value.dtype for value in network.model.parameters()} == {torch.float32}

    def test_published_squeezenet_predicts(self, shared: Path) -> None:
        network = build_classifier("squeezenet1_1", 1000, head="native")
        load_classifier(network, load_file(shared / "weights" / "squeezenet1_1_imagenet_fp16.safetensors"), "shared")
        folder = shared / "data" / "demo_images" / "ilsvrc_val"
        with (folder / "labels_boxes.csv").open() as file:
            labels = {row["image"]: int(row["class_index_0based"]) for row in csv.DictReader(file)}
        with torch.no_grad():
            logits = network.model(torch.stack([_squeezenet_input(folder / name) for name in labels]))
        right = logits.argmax(dim=1) == torch.tensor(list(labels.values()))
        assert len(labels) == 14
        assert right.sum() == 9

    def test_refuses_and_counts(self) -> None:
        network = build_classifier("small", 3)
        state = {f"module.{key}": value for key, value in network.model.state_dict().items()}
        with pytest.raises(
            WeightsError, match=r"weights x\.pth .*small with 3 classes: 27 missing: .*, \.\.\.; 27 unex"
        ):
            load_classifier(network, state, "x.pth")

    def test_refuses_another_number_of_classes(self) -> None:
        state = build_classifier("small", 4).model.state_dict()
        network = build_classifier("small", 3)
        before = network.model.get_parameter("head.weight").clone()
        with pytest.raises(
            WeightsError, match=r"2 of another shape: head\.weight \(file \(4, 160\), network \(3, 160\)"
        ):
            load_classifier(network, state, "four")
        assert torch.equal(network.model.get_parameter("head.weight"), before)


class TestLoadBackbone:
    @pytest.mark.parametrize("backbone", ["small", "squeezenet1_1", "mobilenet_v2", "resnet18", "resnet10t"])
    def test_smoke(self, backbone: str) -> None:
        source, target = build_classifier(backbone, 5), build_classifier(backbone, 3)
        head = target.model.get_parameter(f"{target.head}.weight").clone()
        load_backbone(target, source.model.state_dict(), "memory")
        assert torch.equal(target.model.get_parameter(f"{target.head}.weight"), head)
        for key, value in source.model.state_dict().items():
            if not key.startswith(target.head):
                assert torch.equal(target.model.state_dict()[key], value), key

    def test_published_heads_are_ignored(self, shared: Path) -> None:
        state = load_file(shared / "weights" / "squeezenet1_1_imagenet_fp16.safetensors")
        network = build_classifier("squeezenet1_1", 4)
        load_backbone(network, state, "shared")
        loaded = network.model.get_parameter("features.12.expand3x3.weight")
        assert torch.equal(loaded, state["features.12.expand3x3.weight"].float())

    def test_published_mobilenet_without_batch_counts(self, shared: Path) -> None:
        state = load_file(shared / "weights" / "mobilenet_v2_imagenet1001_fp16.safetensors")
        load_backbone(build_classifier("mobilenet_v2", 2), state, "shared")
        whole = build_classifier("mobilenet_v2", 1001)
        load_classifier(whole, state, "shared")
        assert torch.equal(whole.model.get_parameter("classifier.1.weight"), state["classifier.1.weight"].float())

    def test_inception_drops_the_auxiliary_classifier(self) -> None:
        with torch.device("meta"):
            published = torchvision.models.inception_v3(init_weights=False)
        state = {key: torch.zeros(value.shape) for key, value in published.state_dict().items()}
        network = build_classifier("inception_v3", 2)
        load_backbone(network, state, "zeros")
        assert not network.model.get_parameter("Mixed_7c.branch1x1.conv.weight").any()
        assert network.model.get_parameter("fc.weight").any()

    def test_vgg_drops_its_linear_layers(self) -> None:
        with torch.device("meta"):
            published = torchvision.models.vgg16(init_weights=False)
        features = published.features.state_dict(prefix="features.")
        state = {key: torch.zeros(value.shape) for key, value in features.items()}
        state |= {f"classifier.{i}.{part}": torch.zeros(1) for i in (0, 3, 6) for part in ("weight", "bias")}
        network = build_classifier("vgg16", 2)
        load_backbone(network, state, "zeros")
        assert not network.model.get_parameter("features.28.weight").any()
        assert network.model.get_submodule(network.head).weight.any()

    def test_refuses_a_missing_layer(self) -> None:
        network = build_classifier("small", 3)
        state: dict[str, Tensor] = dict(network.model.state_dict())
        del state["stages.2.1.running_var"]
        with pytest.raises(WeightsError, match=r"1 missing: stages\.2\.1\.running_var\."):
            load_backbone(network, state, "partial")

    def test_refuses_another_backbone(self) -> None:
        with pytest.raises(WeightsError, match=r"do not fit resnet18 .*missing.*unexpected"):
            load_backbone(build_classifier("resnet18", 3), build_classifier("small", 3).model.state_dict(), "small")


class TestPretrained:
    def test_refuses_unknown_names(self) -> None:
        with pytest.raises(WeightsError, match=r"IMAGENET1K_V1, DEFAULT; got 'IMAGENET'"):
            build_classifier("squeezenet1_1", 2, pretrained="IMAGENET")

    def test_refuses_networks_of_others(self) -> None:
        with pytest.raises(WeightsError, match="'small': give a local file"):
            build_classifier("small", 2, pretrained="IMAGENET1K_V1")

    def test_a_failed_download_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_args: Any, **_kwargs: Any) -> None:
            raise OSError("no network")

        monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", fail)
        with pytest.raises(WeightsError, match=r"https://.*no network.*give its path"):
            build_classifier("squeezenet1_1", 2, pretrained="IMAGENET1K_V1")

    def test_loads_what_torchvision_hands_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        state = torchvision.models.squeezenet1_1().state_dict()
        monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_a, **_k: state)
        network = build_classifier("squeezenet1_1", 2, pretrained="IMAGENET1K_V1")
        assert torch.equal(network.model.get_parameter("features.0.weight"), state["features.0.weight"])
