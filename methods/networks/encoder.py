"""Encoders: the features of a classifier that a U-Net decoder starts from.

The features are what the classifier's named layers return, read in one ordinary pass, so that any classifier of this
package serves as an encoder, and its weights stay where they are.
"""

import threading
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from methods.networks.network import ClassifierNetwork, resolve_layers

SMALLEST = 32
PROBE = 96
FINER = {
    "resnet18": ("relu", "S2", "S3", "S4", "S5"),
    "resnet50": ("relu", "S2", "S3", "S4", "S5"),
    "inception_v3": ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "S3", "S4", "S5"),
    "squeezenet1_1": ("features.1", "features.4", "features.7", "S5"),
}
"""Layers in front of a pool, where the stage itself is the pool or lies behind it: twice the resolution."""


class EncoderError(ValueError):
    """A classifier whose features cannot be read."""


class Encoder(nn.Module):
    """Reads the features of a classifier, from the image to the deepest.

    Parameters
    ----------
    network
        Classifier. Its model becomes a part of the encoder and is not copied.
    layers
        Stages (``S1`` to ``S5``, ``S1_pre``) or module names, from fine to coarse; by default
        :func:`encoder_layers`.
    frozen
        The model stays in evaluation mode whatever :meth:`train` says, its parameters stop asking for gradients, and
        features come without a graph.

    Attributes
    ----------
    layers
        Names of the modules that are read.
    channels
        Channels of the image and of every feature: what :class:`~methods.networks.decoder.Decoder` is built for.

    Raises
    ------
    ValueError
        An unknown layer, no layer, or one twice.
    EncoderError
        A layer that does not return one map ``[B, C, h, w]``, or a coarser one before a finer.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> encoder = Encoder(build_classifier("small", 3))
    >>> encoder.channels
    (3, 24, 48, 96, 128, 160)
    >>> [tuple(feature.shape[2:]) for feature in encoder(torch.zeros(1, 3, 64, 48))][:3]
    [(64, 48), (32, 24), (16, 12)]
    """

    def __init__(self, network: ClassifierNetwork, layers: Sequence[str] | None = None, *, frozen: bool = True) -> None:
        super().__init__()
        self.layers = tuple(resolve_layers(network, encoder_layers(network) if layers is None else layers))
        self.frozen = frozen
        self.model = network.model
        if frozen:
            self.model.requires_grad_(False)
        self.channels = self._probe()
        self.train(self.model.training)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but a frozen model stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images.

        Parameters
        ----------
        images
            ``[B, 3, H, W]`` as the classifier takes them, at least 32 pixels a side. A network may ask for more
            (Inception-v3: 75).

        Returns
        -------
        list of Tensor
            The images, then one ``[B, C_i, h_i, w_i]`` a layer. Several threads may share a frozen encoder.

        Raises
        ------
        ValueError
            Another shape, or images that are not finite.
        TypeError
            Images that are not floating point.
        EncoderError
            The network overwrites a feature later on (a module that works in place follows the layer).
        """
        _require_images(images)
        if not self.frozen:
            return [images, *self._read(images)]
        # Somebody who shares the classifier may have switched it: its batch norms must not learn from these images.
        if any(module.training for module in self.model.modules()):
            self.model.eval()
        with torch.no_grad():
            return [images.detach(), *self._read(images.detach())]

    def _read(self, images: Tensor) -> list[Tensor]:
        found: dict[str, Tensor] = {}
        versions: dict[str, int] = {}
        thread = threading.get_ident()

        def keep(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                # The hook hangs on the shared module: passes of other threads reach it too.
                if threading.get_ident() == thread:
                    found[name], versions[name] = output, _version(output)

            return hook

        handles = [self.model.get_submodule(name).register_forward_hook(keep(name)) for name in self.layers]
        try:
            self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        for name in self.layers:
            if not isinstance(found.get(name), Tensor) or found[name].ndim != 4:
                raise EncoderError(f"expected layer {name} to return one map [B, C, h, w]; choose other layers")
            if _version(found[name]) != versions[name]:
                raise EncoderError(
                    f"the output of {name} is overwritten by a module that works in place: choose the module behind it"
                )
        return [found[name] for name in self.layers]

    def _probe(self) -> tuple[int, ...]:
        """Channels, found with one blank image that no batch norm learns from."""
        modes = {module: module.training for module in self.model.modules()}
        first = next(iter(self.model.parameters()))
        self.model.eval()
        try:
            with torch.no_grad():
                blank = torch.zeros(1, 3, PROBE, PROBE, dtype=first.dtype, device=first.device)
                features = [blank, *self._read(blank)]
        finally:
            for module, mode in modes.items():
                module.training = mode
        sides = [feature.shape[-1] for feature in features]
        if sides != sorted(sides, reverse=True):
            found = ", ".join(f"{name} {side}" for name, side in zip(self.layers, sides[1:]))
            raise EncoderError(f"expected layers from fine to coarse, got sides {found} of an image of {PROBE}")
        return tuple(feature.shape[1] for feature in features)


def encoder_layers(network: ClassifierNetwork) -> tuple[str, ...]:
    """Layers that a decoder of this classifier joins by default, from fine to coarse.

    The stages; where a stage is a pool, what lies in front of it, which still has the edges.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> encoder_layers(build_classifier("resnet18", 3))
    ('relu', 'S2', 'S3', 'S4', 'S5')
    """
    if network.backbone in FINER:
        return FINER[network.backbone]
    # A rectifier before the first pool has the size of the image, at which the decoder ends anyway.
    before = tuple(stage for stage in network.pre_pool if stage != "S1_pre")
    if not before:
        return tuple(network.stages)
    last = list(network.stages)[-1]
    return (*before, last)


def _require_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST:
        raise ValueError(
            f"expected images [B, 3, H, W] of at least {SMALLEST} pixels a side, got shape {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise TypeError(f"expected floating point images, got {images.dtype}")
    if not (finite := images.isfinite()).all():
        count = int((~finite).sum())
        raise ValueError(f"expected finite images, got {count} of {images.numel()} values NaN or infinite")


def _version(output: Any) -> int:
    """Counts changes in place; tensors of inference mode do not count."""
    return output._version if isinstance(output, Tensor) and not output.is_inference() else 0
