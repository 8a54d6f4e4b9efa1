"""A classifier with named parts: one shape of object for every backbone.

Stages are called S1 (finest) to S5 (coarsest) everywhere; a network with fewer has the last ones, S5 always being its
last feature map. ``S1_pre`` to ``S5_pre`` of VGG16 are the rectifiers in front of the pools that its stages are: twice
the resolution, but three of four gradients are zero there, a grid that Layer-CAM and truncated gradients show.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ClassifierNetwork:
    """A classifier and the names of its parts.

    Attributes
    ----------
    backbone
        The name it was built from.
    classes
        Number of outputs K.
    model
        Maps images ``(B, 3, H, W)`` to logits ``(B, K)``.
    stages
        ``S1`` to ``S5`` with their names in ``model.named_modules()``.
    head
        Name of the last layer: linear, or the 1x1 convolution of a native SqueezeNet.
    original_heads
        Modules of the published network whose weights a backbone file may hold for nothing.
    pre_pool
        ``S1_pre`` to ``S5_pre`` with their names in ``model.named_modules()``: the outputs before the pools that the
        stages are. Empty for most networks.
    """

    backbone: str
    classes: int
    model: nn.Module
    stages: dict[str, str]
    head: str
    original_heads: tuple[str, ...]
    pre_pool: dict[str, str] = field(default_factory=dict)


def resolve_layers(network: ClassifierNetwork, layers: Sequence[str]) -> list[str]:
    """Module names of layers that are given as stages (``S5``, ``S5_pre``) or as module names.

    Raises
    ------
    ValueError
        No layer, an unknown one, or the same one twice.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> resolve_layers(build_classifier("small", 2), ["S4", "stages.4.2"])
    ['stages.3', 'stages.4.2']
    """
    modules = [name for name, _ in network.model.named_modules() if name]
    known = network.stages | network.pre_pool
    names = [known.get(layer, layer) for layer in layers]
    unknown = [name for name in names if name not in set(modules)]
    if unknown or not names:
        stages = ", ".join(f"{stage} ({name})" for stage, name in known.items())
        raise ValueError(
            f"layers of {network.backbone}: expected stages {stages} or module names such as "
            f"{', '.join(modules[:8])}; got {', '.join(unknown) or 'none'}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"layers of {network.backbone}: expected each once, got {', '.join(names)}")
    return names


def pooled_features(network: ClassifierNetwork, images: Tensor) -> Tensor:
    """What the last linear layer sees, ``(B, C)`` without a graph: all that training of a frozen network needs.

    Several threads may share the network.

    Raises
    ------
    ValueError
        The model is in training mode (dropout and batch norm would make the features unrepeatable), or its head is a
        convolution.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> pooled_features(build_classifier("small", 2), torch.zeros(3, 3, 32, 32)).shape
    torch.Size([3, 160])
    """
    head = network.model.get_submodule(network.head)
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"expected a linear head, found {type(head).__name__} {network.head!r} in {network.backbone}: set head: gap"
        )
    if network.model.training:
        raise ValueError(f"expected {network.backbone} in evaluation mode: call model.eval() first")
    seen: list[Tensor] = []
    thread = threading.get_ident()

    def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # The hook hangs on the shared module: passes of other threads reach it too.
        if threading.get_ident() == thread:
            seen.append(inputs[0].detach())

    handle = head.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            network.model(images)
    finally:
        handle.remove()
    return seen[0]
