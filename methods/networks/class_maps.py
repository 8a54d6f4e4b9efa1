"""Class maps of a classifier before pooling, with its logits, from one pass: what Puzzle-CAM trains and looks at."""

import threading
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from methods.networks.network import ClassifierNetwork

LAST_STAGE = "S5"
TOLERANCE = 0.02


class ClassMapError(ValueError):
    """A network whose logits are not the mean of class maps."""


def class_maps(network: ClassifierNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    r"""Class maps and logits of images, from one forward pass.

    .. math:: F_{kp} = \sum_c W_{kc} A_{cp}, \qquad z_k = b_k + \frac{1}{hw} \sum_p F_{kp}

    with the output A of the last stage and the head's weights W and bias b.

    Parameters
    ----------
    network
        Classifier whose head is linear right on the mean of its last stage, S5 (most networks with head ``gap``).
        Dropout in between is allowed; it reaches the logits, not the maps.
    images
        ``[B, 3, H, W]`` as the network takes them.

    Returns
    -------
    maps : Tensor
        ``[B, K, h, w]`` on the grid of S5, any sign, without the bias.
    logits : Tensor
        ``[B, K]``, what the model returns.

    Raises
    ------
    ClassMapError
        The head is not linear, or the network computes more between S5 and the head than a mean.

    Notes
    -----
    Both have a graph where gradients are enabled, and the model keeps its mode. Several threads may share the network.

    References
    ----------
    Jo and Yu, Puzzle-CAM: Improved Localization via Matching Partial and Full Features, ICIP 2021.

    Examples
    --------
    >>> import torch
    >>> from methods.networks import build_classifier
    >>> network = build_classifier("small", 2)
    >>> maps, logits = class_maps(network, torch.rand(3, 3, 64, 96))
    >>> maps.shape, logits.shape
    (torch.Size([3, 2, 2, 3]), torch.Size([3, 2]))
    >>> torch.allclose(maps.mean(dim=(2, 3)) + network.model.head.bias, logits, atol=1e-5)
    True
    """
    head = network.model.get_submodule(network.head)
    if not isinstance(head, nn.Linear):
        raise _refused(network, f"has a {type(head).__name__}")
    last, pooled, logits = _pass(network, head, images)
    _require_mean(network, last, pooled)
    return F.conv2d(last, head.weight[:, :, None, None]), logits


def _pass(network: ClassifierNetwork, head: nn.Linear, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the last stage returns, what the head sees, and the logits."""
    found: dict[str, Any] = {}
    thread = threading.get_ident()

    # The hooks hang on shared modules: passes of other threads reach them too.
    def keep_output(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            found["last"] = output

    def keep_input(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread:
            found["pooled"] = inputs[0]

    stage = network.model.get_submodule(network.stages[LAST_STAGE])
    handles = [stage.register_forward_hook(keep_output), head.register_forward_pre_hook(keep_input)]
    try:
        logits: Tensor = network.model(images)
    finally:
        for handle in handles:
            handle.remove()
    last = found.get("last")
    if not isinstance(last, Tensor) or last.ndim != 4 or "pooled" not in found:
        raise _refused(network, "returns no map [B, C, h, w] there")
    return last, found["pooled"], logits


def _require_mean(network: ClassifierNetwork, last: Tensor, pooled: Tensor) -> None:
    """Compare what the head saw with the mean; where dropout has changed it, only their shapes."""
    mean, pooled = last.detach().float().mean(dim=(2, 3)), pooled.detach().float()
    if pooled.shape != mean.shape:
        raise _refused(network, "computes more in between")
    if any(isinstance(one, nn.Dropout) and one.training and one.p > 0 for one in network.model.modules()):
        return
    scale = mean.abs().max().clamp(min=1e-6)
    # Not finite values are not for this function to judge: they compare as False.
    if bool((pooled - mean).abs().max() / scale > TOLERANCE):
        raise _refused(network, "computes more in between")


def _refused(network: ClassifierNetwork, why: str) -> ClassMapError:
    return ClassMapError(
        f"expected a linear head right on the average of {LAST_STAGE}, {network.backbone} {why}: "
        "use vgg16, resnet50 … with head: gap"
    )
