"""Backbones that a classifier can stand on: how each is built, where its five stages and its head are.

Every network keeps the module names of its origin (torchvision, timm), so that a plain state dict of it can be loaded.
"""

import difflib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.networks.small import SmallNet

Head = Literal["gap", "native"]
TORCHVISION = ("vgg16", "resnet18", "resnet50", "inception_v3", "squeezenet1_1", "mobilenet_v2")
VGG16_POOLS = (4, 9, 16, 23, 30)
RESNET_STAGES = ("maxpool", "layer1", "layer2", "layer3", "layer4")


class BackboneError(ValueError):
    """A backbone that is not known, or that cannot serve class activation mapping."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A network and the names of its parts.

    ``stages`` are the outputs to look at, from fine to coarse; ``head`` is the last layer; ``original_heads`` are the
    modules of the published network that a new head replaces, whose weights a backbone file may hold for nothing.
    ``pre_pool`` are, where the stages are pools, the rectifiers in front of them.
    """

    model: nn.Module
    stages: tuple[str, ...]
    head: str
    original_heads: tuple[str, ...]
    pre_pool: tuple[str, ...] = ()


def build_backbone(name: str, classes: int, head: Head) -> Parts:
    """Build a network with random weights.

    Parameters
    ----------
    name
        ``small``, one of :data:`TORCHVISION`, or a name that timm knows (torchvision's comes first).
    classes
        Outputs of the head.
    head
        ``gap``: global average pooling and one linear layer. ``native``: the published layers, only the last resized.

    Returns
    -------
    Parts
        The network and the names of its parts.

    Raises
    ------
    BackboneError
        A name that nobody knows, or a network without spatial features or without the head that was asked for.

    Examples
    --------
    >>> build_backbone("resnet18", 3, "gap").stages
    ('maxpool', 'layer1', 'layer2', 'layer3', 'layer4')
    """
    if name == "small":
        return Parts(SmallNet(classes), tuple(f"stages.{i}" for i in range(5)), "head", ())
    return _torchvision(name, classes, head) if name in TORCHVISION else _timm(name, classes, head)


def _torchvision(name: str, classes: int, head: Head) -> Parts:
    from torchvision import models

    if name == "vgg16":
        return _vgg16(classes, head)
    if name == "squeezenet1_1":
        return _squeezenet(classes, head)
    if name == "mobilenet_v2":
        stages = tuple(f"features.{i}" for i in (1, 3, 6, 13, 18))
        return Parts(models.mobilenet_v2(num_classes=classes), stages, "classifier.1", ("classifier.1",))
    if name == "inception_v3":
        # Its own initialisation (truncated normals) is slow, and the layers' defaults do.
        # Published weights expect (x - 0.5) / 0.5; with transform_input it takes ImageNet-normalised images like all.
        options: dict[str, Any] = {"aux_logits": False, "init_weights": False, "transform_input": True}
        stages = ("maxpool1", "maxpool2", "Mixed_5d", "Mixed_6e", "Mixed_7c")
        return Parts(models.inception_v3(num_classes=classes, **options), stages, "fc", ("fc", "AuxLogits"))
    return Parts(models.get_model(name, weights=None, num_classes=classes), RESNET_STAGES, "fc", ("fc",))


def _vgg16(classes: int, head: Head) -> Parts:
    from torchvision.models import vgg

    stages = tuple(f"features.{i}" for i in VGG16_POOLS)
    pre_pool = tuple(f"features.{i - 1}" for i in VGG16_POOLS)
    if head == "native":
        return Parts(vgg.vgg16(num_classes=classes), stages, "classifier.6", ("classifier.6",), pre_pool)
    # Nine tenths of the published weights are in the layers that go: never allocate them.
    with torch.device("meta"):
        model = vgg.vgg16(init_weights=False)
    model.features = vgg.make_layers(vgg.cfgs["D"])
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Linear(512, classes)
    for module in model.features:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return Parts(model, stages, "classifier", ("classifier.0", "classifier.3", "classifier.6"), pre_pool)


def _squeezenet(classes: int, head: Head) -> Parts:
    from torchvision import models

    model = models.squeezenet1_1(num_classes=classes)
    stages = tuple(f"features.{i}" for i in (2, 5, 8, 10, 12))
    if head == "native":
        return Parts(model, stages, "classifier.1", ("classifier.1",))
    model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(512, classes))
    return Parts(model, stages, "classifier.2", ("classifier.1",))


def _timm(name: str, classes: int, head: Head) -> Parts:
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, ["small", *TORCHVISION, *timm.list_models()], n=5)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise BackboneError(
            f"backbone {name!r}: expected small, one of {', '.join(TORCHVISION)}, or a name timm knows{hint}"
        )
    model = timm.create_model(name, pretrained=False, num_classes=classes).eval()
    linear = getattr(model, "default_cfg", {}).get("classifier")
    modules = dict(model.named_modules())
    if not isinstance(linear, str) or not isinstance(modules.get(linear), nn.Linear):
        raise BackboneError(f"backbone {name!r}: expected one linear layer as its head, found {linear!r}")
    if head == "gap":
        _require_average_pooling(name, model, modules[linear])
    stages = tuple(info["module"] for info in getattr(model, "feature_info", None) or ())[-5:]
    channels = [info["num_chs"] for info in getattr(model, "feature_info", None) or ()][-5:]
    _require_spatial(name, model, stages, channels)
    return Parts(model, stages, linear, (linear,))


def _require_average_pooling(name: str, model: Any, linear: nn.Module) -> None:
    pooling = {module.pool_type for module in model.modules() if isinstance(getattr(module, "pool_type", None), str)}
    width = getattr(linear, "in_features", None)
    if width != model.num_features or not pooling <= {"avg", "fast", "fastavg"}:
        raise BackboneError(
            f"backbone {name!r} has no plain head of average pooling and one linear layer (pooling "
            f"{', '.join(sorted(pooling)) or 'unknown'}, {model.num_features} channels, {width} into the head): "
            "set head: native to keep its own"
        )


def _require_spatial(name: str, model: Any, stages: tuple[str, ...], channels: list[int]) -> None:
    """Run one blank image and look at what the stages return."""
    shapes: dict[str, tuple[int, ...]] = {}

    def look(stage: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            shapes[stage] = tuple(output.shape) if isinstance(output, Tensor) else ()

        return hook

    modules = dict(model.named_modules())
    handles = [modules[stage].register_forward_hook(look(stage)) for stage in stages if stage in modules]
    try:
        with torch.no_grad():
            model(torch.zeros(1, *model.default_cfg["input_size"]))
    finally:
        for handle in handles:
            handle.remove()
    wrong = [s for s, c in zip(stages, channels) if len(shapes.get(s, ())) != 4 or shapes[s][1] != c]
    if wrong or not stages:
        found = ", ".join(f"{stage} {shapes.get(stage, 'never called')}" for stage in wrong) or "no stages"
        raise BackboneError(
            f"backbone {name!r}: expected stages that return (B, C, h, w), found {found}: "
            "class activation maps need a convolutional network"
        )
