"""Ours against public packages where they are right, on real architectures, and against two where they are not.

One recording of ours, with several classes of one image, against calls of the packages with a copy for each class.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from captum.attr import LayerGradCam, LayerGradientXActivation, Saliency
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision import models

from methods.activation import (
    ablation_cam,
    full_gradients,
    fuse,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    min_max,
    record,
    score_cam,
    xgrad_cam,
)
from methods.activation.record import Record

CLASSES = 12
STAGES = {
    "vgg16": [f"features.{index}" for index in (4, 9, 16, 23, 30)],
    "resnet50": ["maxpool", "layer1", "layer2", "layer3", "layer4"],
}
# Three classes of one image, one of another, two of a third, in any order: those whose maps are hardly ever all zero.
PAIRS = torch.tensor([[0, 5], [1, 0], [0, 8], [2, 9], [0, 10], [2, 0]])
METHODS: dict[str, Callable[..., Tensor]] = {
    "GradCAM": grad_cam,
    "GradCAMPlusPlus": grad_cam_plus_plus,
    "XGradCAM": xgrad_cam,
    "LayerCAM": layer_cam,
}
# A layer of 256 channels: one masked pass of the network per channel and class.
PERTURBED = {"vgg16": "features.16", "resnet50": "layer1"}
PERTURBED_PAIRS = torch.tensor([[0, 0], [1, 5], [0, 5]])


@dataclass
class Subject:
    """A torchvision network with random weights and rectifiers that work in place, and one recording of all pairs."""

    name: str
    model: nn.Module
    images: Tensor
    recorded: Record

    @property
    def layers(self) -> list[str]:
        return STAGES[self.name]

    def ours(self, method: str, layers: Sequence[str]) -> list[Tensor]:
        return [METHODS[method](*self.recorded.paired(layer)) for layer in layers]

    def fused(self, method: str, layers: Sequence[str]) -> Tensor:
        return fuse(self.ours(method, layers), (self.images.shape[2], self.images.shape[3]), "mean_norm")

    def grad_cam_package(self, method: str, layers: Sequence[str], images: Tensor, pairs: Tensor) -> Tensor:
        """Normalised maps at the images' size."""
        modules = [self.model.get_submodule(layer) for layer in layers]
        targets = [ClassifierOutputTarget(class_) for class_ in pairs[:, 1].tolist()]
        with getattr(pytorch_grad_cam, method)(model=self.model, target_layers=modules) as extractor:
            return torch.from_numpy(extractor(input_tensor=images[pairs[:, 0]], targets=targets))

    def torchcam(self, method: str, layers: list[str], images: Tensor, pairs: Tensor) -> list[Tensor]:
        """Rectified maps at the layers' sizes."""
        with getattr(torchcam.methods, method)(self.model, target_layer=layers) as extractor:
            scores = self.model(images[pairs[:, 0]].requires_grad_())
            maps: list[Tensor] = extractor(pairs[:, 1].tolist(), scores, normalized=False)
        return maps


def random_vgg16() -> nn.Module:
    """With narrow fully connected layers: nine tenths of the weights less, and gradients that vary over space still."""
    with torch.device("meta"):
        model = models.vgg16(init_weights=False)
    model.features = models.vgg.make_layers(models.vgg.cfgs["D"])
    for module in model.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.05)
    model.classifier = nn.Sequential(
        nn.Linear(512 * 49, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, CLASSES)
    )
    return model


def random_resnet50() -> nn.Module:
    """With the batch statistics of noise, without which its activations would double with every block."""
    model = models.resnet50(num_classes=CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.normal_(module.bias, std=0.05)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64))
    return model


@pytest.fixture(scope="module", params=STAGES)
def subject(request: pytest.FixtureRequest) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = (random_vgg16() if request.param == "vgg16" else random_resnet50()).eval()
        images = torch.randn(3, 3, 96, 64)
    return Subject(request.param, model, images, record(model, images, PAIRS, STAGES[request.param]))


def close(found: Tensor, expected: Tensor, share: float = 1e-4) -> None:
    """Every map within a share of its own largest magnitude, and most of them not empty."""
    assert found.shape == expected.shape
    largest = expected.flatten(1).abs().amax(1)
    assert 2 * (largest > 0).sum() > len(largest)
    assert ((found - expected).flatten(1).abs().amax(1) <= share * largest).all()


class TestGradCamPackage:
    @pytest.mark.parametrize("method", METHODS)
    def test_each_stage(self, subject: Subject, method: str) -> None:
        for layer in (subject.layers[1], subject.layers[4]):
            close(subject.fused(method, [layer]), subject.grad_cam_package(method, [layer], subject.images, PAIRS))

    @pytest.mark.parametrize("method", METHODS)
    def test_all_stages_fused(self, subject: Subject, method: str) -> None:
        theirs = subject.grad_cam_package(method, subject.layers, subject.images, PAIRS)
        close(subject.fused(method, subject.layers), theirs)

    def test_classes_of_one_image_one_call_each(self, subject: Subject) -> None:
        found = subject.fused("GradCAM", subject.layers[3:])
        for place in (PAIRS[:, 0] == 0).nonzero().squeeze(1).tolist():
            one = PAIRS[place : place + 1]
            theirs = subject.grad_cam_package("GradCAM", subject.layers[3:], subject.images, one)
            close(found[place : place + 1], theirs)

    @pytest.mark.slow
    @pytest.mark.parametrize(("method", "ours"), [("ScoreCAM", score_cam), ("AblationCAM", ablation_cam)])
    def test_perturbation(self, subject: Subject, method: str, ours: Callable[..., Tensor]) -> None:
        images, layer = subject.images[:, :, :32, :32], PERTURBED[subject.name]
        # The package ablates to zero only where that is the smallest activation.
        assert record(subject.model, images, PERTURBED_PAIRS, [layer]).activations[layer].amin((1, 2, 3)).any() == 0
        maps = ours(subject.model, images, PERTURBED_PAIRS, layer)
        theirs = subject.grad_cam_package(method, [layer], images, PERTURBED_PAIRS)
        close(fuse([maps], (32, 32), "mean_norm"), theirs, 1e-3)

    def test_terms_of_full_grad(self, subject: Subject) -> None:
        # Its map stretches every channel on its own; what goes into the map is right.
        found = full_gradients(subject.model, subject.images, PAIRS)
        layers = [layer for layer in found.gradients if found.gradients[layer].ndim == 4]
        targets = [ClassifierOutputTarget(class_) for class_ in PAIRS[:, 1].tolist()]
        with pytorch_grad_cam.FullGrad(subject.model, []) as extractor:
            extractor(input_tensor=subject.images[PAIRS[:, 0]], targets=targets)
            biases, gradients = extractor.bias_data, list(extractor.activations_and_grads.gradients)
        assert len(biases) == len(layers)
        for layer, bias, gradient in zip(layers, biases, gradients, strict=True):
            torch.testing.assert_close(found.biases[layer], torch.from_numpy(bias))
            close(found.gradients[layer], gradient)

    def test_defect_not_shared_overwritten_activations(self, subject: Subject) -> None:
        # A convolution or batch normalisation with an in-place rectifier behind it: they see the rectified tensor.
        layer = {"vgg16": "features.28", "resnet50": "bn1"}[subject.name]
        found = record(subject.model, subject.images, PAIRS, [layer]).activations[layer]
        with pytorch_grad_cam.GradCAM(subject.model, [subject.model.get_submodule(layer)]) as extractor:
            extractor(subject.images, [ClassifierOutputTarget(0)] * len(subject.images))
            theirs = extractor.activations_and_grads.activations[0]
        assert found.min() < 0
        close(theirs, found.relu())


class TestTorchcam:
    @pytest.mark.parametrize("method", ["GradCAM", "XGradCAM", "LayerCAM"])
    def test_every_stage(self, subject: Subject, method: str) -> None:
        theirs = subject.torchcam(method, subject.layers, subject.images, PAIRS)
        for ours, expected in zip(subject.ours(method, subject.layers), theirs, strict=True):
            close(ours, expected)

    def test_layer_cam_fused(self, subject: Subject) -> None:
        size = (subject.images.shape[2], subject.images.shape[3])
        maps = [min_max(layer, 1e-8) for layer in subject.torchcam("LayerCAM", subject.layers, subject.images, PAIRS)]
        theirs = torchcam.methods.LayerCAM.fuse_cams(maps, size)
        close(fuse(subject.ours("LayerCAM", subject.layers), size, "max_tanh"), theirs)

    @pytest.mark.slow
    def test_score_cam(self, subject: Subject) -> None:
        images, layer = subject.images[:, :, :32, :32], PERTURBED[subject.name]
        found = score_cam(subject.model, images, PERTURBED_PAIRS, layer, masks="normalised_first")
        close(found, subject.torchcam("ScoreCAM", [layer], images, PERTURBED_PAIRS)[0], 1e-3)

    def test_defect_not_shared_undivided_grad_cam_plus_plus(self, subject: Subject) -> None:
        theirs = subject.torchcam("GradCAMpp", subject.layers, subject.images, PAIRS)
        for layer, ours, found in zip(subject.layers, subject.ours("GradCAMPlusPlus", subject.layers), theirs):
            activations, gradients = subject.recorded.paired(layer)
            undivided = (gradients.square() * gradients.relu()).sum((2, 3), keepdim=True)
            close((undivided * activations).sum(1).relu(), found)
            total = activations.sum((2, 3), keepdim=True)
            divided = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6) * gradients.relu()
            close(ours, (divided.sum((2, 3), keepdim=True) * activations).sum(1).relu())
            assert (min_max(ours) - min_max(found)).abs().max() > 0.01


class TestCaptum:
    def test_grad_cam_of_every_stage(self, subject: Subject) -> None:
        images, classes = subject.images[PAIRS[:, 0]], PAIRS[:, 1]
        for layer, ours in zip(subject.layers, subject.ours("GradCAM", subject.layers), strict=True):
            extractor = LayerGradCam(subject.model, subject.model.get_submodule(layer))
            close(ours, extractor.attribute(images, classes, relu_attributions=True)[:, 0].detach())

    def test_gradients_times_activations(self, subject: Subject) -> None:
        images, classes = subject.images[PAIRS[:, 0]], PAIRS[:, 1]
        for layer in subject.layers:
            activations, gradients = subject.recorded.paired(layer)
            extractor = LayerGradientXActivation(subject.model, subject.model.get_submodule(layer))
            close(activations * gradients, extractor.attribute(images, classes).detach())

    def test_input_gradients(self, subject: Subject) -> None:
        images, classes = subject.images[PAIRS[:, 0]].requires_grad_(), PAIRS[:, 1]
        found = full_gradients(subject.model, subject.images, PAIRS)
        close(found.input_gradients, Saliency(subject.model).attribute(images, classes, abs=False))


class TestCompleteness:
    def test_full_gradients_sum_to_the_logit(self, subject: Subject) -> None:
        # In float64: a logit near zero is the difference of terms that are not.
        found = full_gradients(copy.deepcopy(subject.model).double(), subject.images.double(), PAIRS)
        torch.testing.assert_close(found.total(), found.logits, rtol=1e-8, atol=0)
