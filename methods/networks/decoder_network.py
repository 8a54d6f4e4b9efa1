"""Networks that end in a mask: a classifier with a decoder on its features.

In F-CAM the classifier is frozen and the decoder learns what its activation maps agree on, at full resolution; as a
plain U-Net, in which the encoder learns too, the same parts are what DiPS and training on pseudo-masks need.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from methods.networks.decoder import Decoder, DecoderHead
from methods.networks.encoder import Encoder
from methods.networks.network import ClassifierNetwork

FOREGROUND = 1


class UNet(nn.Module):
    """Encoder, decoder and a head of two outputs, background and foreground; everything learns.

    Built in evaluation mode, as classifiers are.

    Parameters
    ----------
    network
        Classifier whose model becomes the encoder; it is not copied. Its own head is unused and keeps its values.
    layers
        Features to join, from fine to coarse; by default :func:`~methods.networks.encoder.encoder_layers`.
    widths
        Channels after each block of the decoder, one a layer; by default the first of 256, 128, 64, 32 and 16.
    center
        Two convolutions on the deepest feature first, as F-CAM has for VGG16.

    Raises
    ------
    ValueError
        Layers that the network does not have or that cannot be joined, or not one width a layer.

    References
    ----------
    Ronneberger et al., U-Net, 2015.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> UNet(build_classifier("small", 3))(torch.zeros(1, 3, 45, 64)).shape
    torch.Size([1, 2, 45, 64])
    """

    frozen = False

    def __init__(
        self,
        network: ClassifierNetwork,
        layers: Sequence[str] | None = None,
        *,
        widths: Sequence[int] | None = None,
        center: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(network, layers, frozen=self.frozen)
        self.decoder = Decoder(self.encoder.channels, widths, center=center)
        self.head = DecoderHead(self.decoder.widths[-1])
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
            ``[B, 2, H, W]``: background, foreground.

        Raises
        ------
        ValueError
            Another shape, or images that are not finite.
        TypeError
            Images that are not floating point.
        """
        logits: Tensor = self.head(self.decoder(self.encoder(images)), size=images.shape[-2:])
        return logits

    def foreground(self, images: Tensor) -> Tensor:
        """Probability of foreground, what F-CAM localises by: ``[B, H, W]`` in 0..1, not normalised again.

        In at least single precision and without a graph: :meth:`forward` is what trains.

        Raises
        ------
        ValueError
            The network is in training mode (batch norms would learn from the images), or what :meth:`forward` refuses.
        """
        if self.training:
            raise ValueError("expected the network in evaluation mode: call eval() first")
        with torch.no_grad():
            logits: Tensor = self(images)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return logits.softmax(dim=1)[:, FOREGROUND]

    def learnable(self) -> Iterator[nn.Parameter]:
        """Parameters that an optimiser should get."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)


class DecoderNetwork(UNet):
    """F-CAM's network: a frozen classifier with a decoder that learns.

    The classifier stays in evaluation mode whatever :meth:`train` says, its parameters stop asking for gradients, and
    its features come detached: neither weights nor batch-norm statistics ever change. All parameters and the whole
    classifier are in the state dict, and no two entries share memory.

    Parameters
    ----------
    network, layers, widths, center
        As for :class:`UNet`. ResNet50 with :func:`~methods.networks.stride.keep_stride` and
        :func:`~methods.networks.vgg16_wsol.build_vgg16_wsol` with ``center`` are the published ones.

    Raises
    ------
    ValueError
        As for :class:`UNet`.

    References
    ----------
    Belharbi et al., F-CAM: Full Resolution Class Activation Maps via Guided Parametric Upscaling, 2022.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> network = DecoderNetwork(build_classifier("small", 3))
    >>> network.foreground(torch.zeros(2, 3, 48, 40)).shape
    torch.Size([2, 48, 40])
    >>> any(parameter.requires_grad for parameter in network.encoder.parameters())
    False
    """

    frozen = True
