"""Classifiers from the name of their backbone."""

from methods.networks.backbones import BackboneError, Head, build_backbone
from methods.networks.network import ClassifierNetwork
from methods.networks.vgg16_wsol import build_vgg16_wsol
from methods.networks.weights import load_pretrained


def build_classifier(
    backbone: str, classes: int, *, head: Head = "gap", pretrained: str | None = None
) -> ClassifierNetwork:
    """Build a classifier, in evaluation mode.

    Parameters
    ----------
    backbone
        ``small``, torchvision's vgg16, resnet18, resnet50, inception_v3, squeezenet1_1 or mobilenet_v2, a convolutional
        network of timm, or ``vgg16_wsol``, see :mod:`methods.networks.vgg16_wsol`.
    classes
        Number of outputs.
    head
        ``gap``: global average pooling and one linear layer. ``native``: the published layers, only the last resized.
    pretrained
        Name of torchvision weights for the backbone, such as ``IMAGENET1K_V1``; torchvision keeps or downloads them.

    Returns
    -------
    ClassifierNetwork
        The network with its stages named.

    Raises
    ------
    BackboneError
        An unknown backbone, or one without spatial features or without the head asked for.
    WeightsError
        ``pretrained`` is unknown or could not be had.
    ValueError
        No class, or another ``head``.

    Notes
    -----
    Every network takes ImageNet-normalised images; Inception-v3 brings them to (x - 0.5) / 0.5 by itself.

    Examples
    --------
    >>> network = build_classifier("small", 4)
    >>> network.stages["S5"], network.head
    ('stages.4', 'head')
    """
    if classes < 1:
        raise ValueError(f"expected at least one class, got {classes}")
    if head not in ("gap", "native"):
        raise ValueError(f"expected head gap or native, got {head!r}")
    network = _wsol(classes, head) if backbone == "vgg16_wsol" else _named(backbone, classes, head)
    if pretrained is not None:
        load_pretrained(network, pretrained)
    return network


def _wsol(classes: int, head: Head) -> ClassifierNetwork:
    if head != "gap":
        raise BackboneError(f"vgg16_wsol: expected head gap, its own, got {head!r}")
    return build_vgg16_wsol(classes)


def _named(backbone: str, classes: int, head: Head) -> ClassifierNetwork:
    parts = build_backbone(backbone, classes, head)
    first = 6 - len(parts.stages)
    stages = {f"S{first + i}": name for i, name in enumerate(parts.stages)}
    pre_pool = {f"S{first + i}_pre": name for i, name in enumerate(parts.pre_pool)}
    return ClassifierNetwork(backbone, classes, parts.model.eval(), stages, parts.head, parts.original_heads, pre_pool)
