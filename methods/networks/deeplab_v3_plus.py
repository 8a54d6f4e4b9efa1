"""DeepLabv3+ on any classifier: context of the last stage, edges of a fine one, and labels at the size of the image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.networks.aspp import ASPP, DILATIONS, WIDTH, convolution
from methods.networks.encoder import PROBE, Encoder
from methods.networks.network import ClassifierNetwork, resolve_layers

LOW_STRIDE = 4
LOW_STAGE = "S2"


class DeepLabV3Plus(nn.Module):
    """Encoder, ASPP of its last feature, joined with a fine feature and convolved twice; everything learns.

    The fine feature is the finest one at a quarter of the resolution or less, among equals the stage S2: C2 of a
    ResNet. Built in evaluation mode, as classifiers are.

    Parameters
    ----------
    network
        Classifier whose model becomes the encoder; it is not copied. Its own head is unused and keeps its values.
    classes
        Classes without the background, at least 1.
    layers
        Stages or module names to read, from fine to coarse, two or more; by default
        :func:`~methods.networks.encoder.encoder_layers`.
    dilations
        Of :class:`~methods.networks.aspp.ASPP`.
    width
        Channels of the context and of the convolutions, a multiple of 8.
    low_width
        Channels that the fine feature is brought to, a multiple of 8: 256 in RecurSeed, 48 as published.

    Attributes
    ----------
    low
        Position of the fine feature in what :meth:`features` returns.

    Raises
    ------
    ValueError
        No class, an unknown layer or less than two of them, another width or other dilations.
    EncoderError
        A layer that does not return one map, or a coarser one before a finer.

    References
    ----------
    Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018.

    Notes
    -----
    Group norms as in :class:`~methods.networks.aspp.ASPP`, plain convolutions instead of separable ones, no dropout.
    The published encoder has stride 16: :func:`~methods.networks.stride.keep_stride` of S5.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> DeepLabV3Plus(build_classifier("small", 3), 3, width=32)(torch.zeros(2, 3, 45, 64)).shape
    torch.Size([2, 4, 45, 64])
    """

    def __init__(
        self,
        network: ClassifierNetwork,
        classes: int,
        layers: Sequence[str] | None = None,
        *,
        dilations: Sequence[int] = DILATIONS,
        width: int = WIDTH,
        low_width: int = WIDTH,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"expected at least one class, got {classes}")
        self.encoder = Encoder(network, layers, frozen=False)
        if len(self.encoder.layers) < 2:
            raise ValueError(f"expected two layers or more, a fine and a coarse one, got {self.encoder.layers}")
        self.eval()
        self.low = self._fine_layer(network)
        channels = self.encoder.channels[1:]
        self.context = ASPP(channels[-1], dilations, width)
        self.edges = convolution(channels[self.low], low_width)
        joined = width + low_width
        self.joined = nn.Sequential(convolution(joined, width, kernel=3), convolution(width, width, kernel=3))
        self.head = nn.Conv2d(width, classes + 1, kernel_size=1)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Parameters
        ----------
        images
            ``[B, 3, H, W]`` as the classifier takes them, of any size from 32 pixels a side on.

        Returns
        -------
        Tensor
            ``[B, K + 1, H, W]``, background first.

        Raises
        ------
        ValueError
            Another shape, or images that are not finite.
        TypeError
            Images that are not floating point.
        """
        return self.decode(self.features(images), images.shape[2:])

    def features(self, images: Tensor) -> list[Tensor]:
        """Features ``[B, C_i, h_i, w_i]`` of the layers, from fine to coarse: for :meth:`decode`.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`forward`.
        """
        features: list[Tensor] = self.encoder(images)
        return features[1:]

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits of features.

        Parameters
        ----------
        features
            What :meth:`features` returned.
        size
            Height and width of the logits, those of the image.

        Returns
        -------
        Tensor
            ``[B, K + 1, *size]``, background first.

        Raises
        ------
        ValueError
            More or less features, or other channels.
        """
        found = tuple(feature.shape[1] if feature.ndim == 4 else -1 for feature in features)
        if found != self.encoder.channels[1:]:
            raise ValueError(
                f"expected features [B, C, h, w] with channels {self.encoder.channels[1:]}, got shapes "
                f"{', '.join(str(tuple(feature.shape)) for feature in features) or 'none'}"
            )
        edges = self.edges(features[self.low])
        context = _resized(self.context(features[-1]), edges.shape[2:])
        return _resized(self.head(self.joined(torch.cat([context, edges], dim=1))), size)

    def _fine_layer(self, network: ClassifierNetwork) -> int:
        """Position of the fine feature, found with a blank image: strides may have been changed."""
        first = next(self.encoder.parameters())
        with torch.no_grad():
            found = self.features(torch.zeros(1, 3, PROBE, PROBE, dtype=first.dtype, device=first.device))
        sides = [feature.shape[-1] for feature in found[:-1]]
        finest = max((side for side in sides if side * LOW_STRIDE <= PROBE), default=sides[-1])
        stage = resolve_layers(network, [LOW_STAGE])[0] if LOW_STAGE in network.stages else ""
        equal = [at for at, side in enumerate(sides) if side == finest]
        return next((at for at in equal if self.encoder.layers[at] == stage), equal[0])


def _resized(values: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(values, list(size), mode="bilinear", align_corners=False)
