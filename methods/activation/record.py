"""Record what a network's layers saw and how the chosen logits depend on it, in one forward pass.

Every gradient-weighted map (Grad-CAM and its kin) is a small formula over one :class:`Record`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.activation.errors import GradientReachError
from methods.activation.frozen import frozen
from methods.activation.pairs import check_logits, check_request, pair_gradients, select_rows
from methods.activation.taps import tapped


@dataclass(frozen=True, slots=True)
class Record:
    """Activations of B images and gradients of P (image, class) pairs, by layer name.

    Attributes
    ----------
    activations
        ``[B, C, h, w]`` of each layer, as the network computed them (its dtype and memory format), outside of any
        graph.
    gradients
        ``[P, C, h, w]`` of each layer: row p is d logits[row, class] / d activations[row] of pair p.
    logits
        ``[B, K]``, never a softmax.
    pairs
        ``int64 [P, 2]``, as asked.
    """

    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]
    logits: Tensor
    pairs: Tensor

    def paired(self, layer: str) -> tuple[Tensor, Tensor]:
        """Activations and gradients of one layer, both ``[P, C, h, w]``: what ``grad_cam`` and its kin take."""
        return select_rows(self.activations[layer], self.pairs[:, 0]), self.gradients[layer]


def record(
    model: nn.Module, images: Tensor, pairs: Tensor, layers: Sequence[str], *, allow_zero_gradients: bool = False
) -> Record:
    """Call a network once and take its layers' activations, and their gradients for each (image, class) pair.

    The network is left as it was: its mode, its parameters' ``requires_grad`` and ``grad``, and its hooks, also after
    an exception. Several threads may record one network at once. No graph is kept before the first recorded layer.

    Parameters
    ----------
    model
        A network from images to logits ``[B, K]``; it runs in evaluation mode, in the autocast mode of the caller.
    images
        ``[B, 3, H, W]``, preprocessed, on the network's device.
    pairs
        Integers ``[P, 2]`` of (image row, class): any order, any number per image, also none. The number of backward
        passes is the largest number of pairs of one image; batch images with alike numbers together.
    layers
        Names as in ``model.named_modules()``. Each must be called once and return maps ``[B, C, h, w]``. What the layer
        itself returned is recorded, also where an in-place module follows it.
    allow_zero_gradients
        Accept a layer whose gradients are zero for every pair. It is an error by default, because that is how a layer
        looks that the logits do not use (the patch tokens after a transformer's last block).

    Returns
    -------
    Record
        See there.

    Raises
    ------
    RecordingError
        One of its kinds: :class:`UnknownLayerError`, :class:`PairError`, :class:`LayerCallError`,
        :class:`LayerOutputError`, :class:`LogitsError`, :class:`GradientReachError`, :class:`OverwrittenLayerError`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 5))
    >>> found = record(model, torch.rand(2, 3, 8, 8), torch.tensor([[1, 4], [0, 2], [1, 0]]), ["0"])
    >>> found.activations["0"].shape, found.gradients["0"].shape, found.logits.shape
    (torch.Size([2, 4, 3, 3]), torch.Size([3, 4, 3, 3]), torch.Size([2, 5]))
    """
    check_request(images, pairs, layers)
    pairs = pairs.to(torch.int64)
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        # A tensor made in inference mode cannot enter a graph; a detached one would drag in a graph of the caller's.
        images = images.clone() if images.is_inference() else images.detach()
        with tapped(model, layers) as taps:
            output = model(images)
        outputs = taps.outputs()
        logits = check_logits(output, pairs, len(images))
        names = list(outputs)
        found = pair_gradients(logits, pairs.to(logits.device), [outputs[name] for name in names], names)
    gradients = dict(zip(names, found, strict=True))
    if len(pairs) and not allow_zero_gradients:
        _refuse_zeros(gradients)
    activations = {name: value.detach() for name, value in outputs.items()}
    return Record(activations, gradients, logits.detach(), pairs)


def _refuse_zeros(gradients: dict[str, Tensor]) -> None:
    zero = [name for name, gradient in gradients.items() if not gradient.any()]
    if zero:
        raise GradientReachError(
            f"every gradient of layer(s) {zero} is zero, so every map would be: the logits do not use these outputs "
            "(as with patch tokens after a transformer's last block), or every unit behind them is dead for these "
            "images. Record an earlier layer, or pass allow_zero_gradients=True"
        )
