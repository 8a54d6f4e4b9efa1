"""Class activation maps against the bare pass, and against public packages (``pip install -e '.[bench]'``).

``python -m benchmarks.cam [float32|bfloat16] [BACKBONE ...]``: random weights, batch 8 of 224 pixels, 1 thread. The
floor ``bare`` is a forward and one backward pass to the outputs of all five stages, no graph before the first of them,
same precision and memory format. Read: ``six x stages`` 1.10 means that the maps of six methods on five stages cost
10 % on top of the pass they all share. Packages are called once per method, with all stages as its layers; our maps
stay at the size of the layer, theirs are enlarged too. Times are of the processor, not of the clock on the wall.
"""

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, ratio, show, spread
from methods.activation import grad_cam, grad_cam_plus_plus, layer_cam, record, truncate, xgrad_cam
from methods.activation.record import Record
from methods.networks import build_classifier

BATCH, SIDE, CLASSES, SEVERAL = 8, 224, 20, 3
REPETITIONS, PACKAGE_REPETITIONS = 3, 1
METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "xgrad_cam": xgrad_cam,
    "layer_cam": layer_cam,
    "lt_grad_cam": lambda a, g: grad_cam(a, truncate(g, 20)),
    "lt_layer_cam": lambda a, g: layer_cam(a, truncate(g, 20)),
}
GRAD_CAM_PACKAGE = ("GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "HiResCAM")
TORCHCAM_PACKAGE = ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM")


class Subject:
    """A network with its batch, and the passes over it that are timed."""

    def __init__(self, backbone: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        network = build_classifier(backbone, CLASSES)
        model = network.model.eval().requires_grad_(False).to(dtype)
        self.model: nn.Module = model.to(memory_format=torch.channels_last)
        self.layers = list(network.stages.values())
        self.images = torch.rand(BATCH, 3, SIDE, SIDE, dtype=dtype).to(memory_format=torch.channels_last)
        self.pairs = torch.tensor([[row, row % CLASSES] for row in range(BATCH)])
        self.several = torch.tensor([[row, (row + k) % CLASSES] for row in range(BATCH) for k in range(SEVERAL)])

    def forward(self) -> Tensor:
        """The logits."""
        with torch.no_grad():
            logits: Tensor = self.model(self.images)
        return logits

    def bare(self, layers: Sequence[str], classes: int = 1) -> None:
        """Forward, and a backward pass per class to what the layers return."""
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            kept.append(output if output.requires_grad else output.detach().requires_grad_())
            return kept[-1]

        handles = [self.model.get_submodule(layer).register_forward_hook(keep) for layer in layers]
        try:
            logits = self.model(self.images)
        finally:
            for handle in handles:
                handle.remove()
        for k in range(classes):
            chosen = logits[torch.arange(BATCH), (self.pairs[:, 1] + k) % CLASSES].sum()
            torch.autograd.grad(chosen, kept, retain_graph=k + 1 < classes)

    def record(self, layers: Sequence[str], pairs: Tensor) -> Record:
        """Our recording."""
        return record(self.model, self.images, pairs, list(layers), allow_zero_gradients=True)

    def maps(self, methods: Sequence[str], layers: Sequence[str], pairs: Tensor) -> None:
        """Our recording and the maps of several methods on each layer."""
        found = self.record(layers, pairs)
        for layer in layers:
            activations, gradients = found.paired(layer)
            for method in methods:
                METHODS[method](activations, gradients)


def ours(subject: Subject) -> list[list[object]]:
    """Our passes against their floors."""
    layers, last = subject.layers, subject.layers[-1:]
    times = interleaved(
        {
            "forward": subject.forward,
            "bare, 5 stages": lambda: subject.bare(layers),
            "bare, 5 stages, 3 classes": lambda: subject.bare(layers, SEVERAL),
            "record": lambda: subject.record(layers, subject.pairs),
            "six x stages": lambda: subject.maps(list(METHODS), layers, subject.pairs),
            "four x stages": lambda: subject.maps(list(METHODS)[:4], layers, subject.pairs),
            "Grad-CAM, last stage": lambda: subject.maps(["grad_cam"], last, subject.pairs),
            "record, 3 classes": lambda: subject.record(layers, subject.several),
        },
        REPETITIONS,
        time.process_time,
    )
    floors = {
        "record": "bare, 5 stages",
        "six x stages": "bare, 5 stages",
        "four x stages": "bare, 5 stages",
        "Grad-CAM, last stage": "forward",
        "record, 3 classes": "bare, 5 stages, 3 classes",
    }
    return [_row(name, times[name], floor, times[floor]) for name, floor in floors.items()]


def costs(subject: Subject) -> list[list[object]]:
    """What each method adds on each stage, as a part of the bare pass."""
    found = subject.record(subject.layers, subject.pairs)

    def all_stages(method: str) -> Callable[[], object]:
        return lambda: [METHODS[method](*found.paired(layer)) for layer in subject.layers]

    calls: dict[str, Callable[[], object]] = {"bare, 5 stages": lambda: subject.bare(subject.layers)}
    calls |= {method: all_stages(method) for method in METHODS}
    times = interleaved(calls, REPETITIONS, time.process_time)
    return [_row(method, times[method], "bare, 5 stages", times["bare, 5 stages"]) for method in METHODS]


def packages(subject: Subject) -> list[list[object]]:
    """Public packages called once for each of several methods, against our six."""
    import pytorch_grad_cam
    import torchcam.methods
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(k) for k in subject.pairs[:, 1].tolist()]
    # As their users have it; a frozen network has no graph for them. Ours freezes it for the length of a call.
    subject.model.requires_grad_(True)
    modules = [subject.model.get_submodule(layer) for layer in subject.layers]

    def grad_cam_package() -> None:
        for method in GRAD_CAM_PACKAGE:
            with getattr(pytorch_grad_cam, method)(model=subject.model, target_layers=modules) as made:
                made(input_tensor=subject.images, targets=targets)

    def torchcam_package() -> None:
        for method in TORCHCAM_PACKAGE:
            images = subject.images.clone().requires_grad_()
            with getattr(torchcam.methods, method)(subject.model, target_layer=subject.layers) as made:
                made(subject.pairs[:, 1].tolist(), subject.model(images))

    floor = "six x stages (ours)"
    times = interleaved(
        {
            floor: lambda: subject.maps(list(METHODS), subject.layers, subject.pairs),
            "grad-cam, 5 methods": grad_cam_package,
            "torchcam, 4 methods": torchcam_package,
        },
        PACKAGE_REPETITIONS,
        time.process_time,
    )
    return [_row(name, took, floor, times[floor]) for name, took in times.items() if name != floor]


def _row(name: str, took: list[float], floor: str, base: list[float]) -> list[object]:
    return [name, 1e3 * sorted(took)[len(took) // 2], floor, ratio(took, base), spread(took, base)]


def main(precision: str = "float32", *backbones: str) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    header = ["what", "ms a batch", "floor", "ratio", "range"]
    for backbone in backbones or ("resnet50", "vgg16"):
        subject = Subject(backbone, getattr(torch, precision))
        setting = f"{backbone}, {precision}, batch {BATCH} of {SIDE} pixels, 1 thread"
        show(f"{setting}: ours", header, ours(subject))
        show(f"{setting}: maps alone, 5 stages", header, costs(subject))
        if precision == "float32":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                show(f"{setting}: packages", header, packages(subject))


if __name__ == "__main__":
    main(*sys.argv[1:])
