"""Full gradients: a logit split, without remainder, into terms of the input and of every bias.

In a network of linear layers, biases and ReLU-like activations the logit equals the input times its gradient, plus
every bias times the gradient at its place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.activation.errors import RecordingError
from methods.activation.frozen import frozen
from methods.activation.inputs import at_least_float32
from methods.activation.pairs import check_logits, check_request, pair_gradients, select_rows
from methods.activation.taps import tapped

INPUT = "(input)"


@dataclass(frozen=True, slots=True)
class FullGradients:
    """The parts of P logits.

    Attributes
    ----------
    images
        ``[P, 3, H, W]``: each pair's image.
    input_gradients
        ``[P, 3, H, W]``.
    biases
        By name of the layer, in registration order: the effective bias ``[C]``.
    gradients
        By name of the layer: gradient of the pair's logit at the layer's output, ``[P, C, h, w]`` or ``[P, C]``.
    logits
        ``[P]``: each pair's own logit.
    """

    images: Tensor
    input_gradients: Tensor
    biases: dict[str, Tensor]
    gradients: dict[str, Tensor]
    logits: Tensor

    def term(self, layer: str) -> Tensor:
        """Bias times gradient of one layer, ``[P, C, h, w]`` or ``[P, C]``."""
        return times_bias(self.gradients[layer], self.biases[layer])

    def total(self) -> Tensor:
        """Sum of all terms of each pair, ``[P]``: equals ``logits`` where activations are ReLU-like."""
        total = (self.images * self.input_gradients).flatten(1).sum(1)
        for layer in self.gradients:
            total = total + self.term(layer).flatten(1).sum(1)
        return total


def full_gradients(model: nn.Module, images: Tensor, pairs: Tensor) -> FullGradients:
    """Gradients at the input and at the output of every Conv2d, BatchNorm2d and Linear with a bias.

    Parameters
    ----------
    model, images, pairs
        As in :func:`methods.activation.record`.

    Returns
    -------
    FullGradients
        Layers that this forward pass does not reach are left out.

    Raises
    ------
    RecordingError
        As ``record``; and a batch normalisation without running statistics, which has no bias of its own.

    References
    ----------
    Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> found = full_gradients(net, torch.rand(1, 3, 8, 8), torch.tensor([[0, 1]]))
    >>> list(found.gradients), bool(torch.allclose(found.total(), found.logits, atol=1e-4))
    (['0', '3'], True)
    """
    check_request(images, pairs, [INPUT])
    pairs = pairs.to(images.device, torch.int64)
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        biases = {name: bias for name, module in model.named_modules() if (bias := _bias(name, module)) is not None}
        images = images.clone().detach().requires_grad_()
        with tapped(model, list(biases), dimensions=None) as taps:
            # The copy lets a network change its input in place.
            output = model(images.clone())
        outputs = taps.outputs(reached_only=True)
        logits = check_logits(output, pairs, len(images))
        names = [INPUT, *outputs]
        found = pair_gradients(logits, pairs, [images, *outputs.values()], names)
    return FullGradients(
        images=at_least_float32(select_rows(images.detach(), pairs[:, 0])),
        input_gradients=at_least_float32(found[0]),
        biases={name: biases[name] for name in outputs},
        gradients={name: at_least_float32(gradient) for name, gradient in zip(outputs, found[1:], strict=True)},
        logits=at_least_float32(logits.detach()[pairs[:, 0], pairs[:, 1]]),
    )


def times_bias(gradients: Tensor, bias: Tensor) -> Tensor:
    """``[P, C, h, w]`` or ``[P, ..., C]`` of a linear layer, times ``[C]``."""
    return gradients * (bias[:, None, None] if gradients.ndim == 4 else bias)


def _bias(name: str, module: nn.Module) -> Tensor | None:
    """The constant that a layer adds, [C], in evaluation mode; None if it adds none."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return None if module.bias is None else at_least_float32(module.bias.detach())
    if not isinstance(module, nn.BatchNorm2d):
        return None
    if module.running_mean is None or module.running_var is None:
        raise RecordingError(f"layer {name!r} normalises by its batch: full gradients need running statistics")
    scale = (module.running_var + module.eps).rsqrt()
    if module.affine:
        return at_least_float32((module.bias - module.running_mean * module.weight * scale).detach())
    return at_least_float32(-module.running_mean * scale)
