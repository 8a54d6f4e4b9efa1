"""RecurSeed's network: class maps and a decoder on one encoder, from one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.networks.aspp import DILATIONS, WIDTH
from methods.networks.deeplab_v3_plus import DeepLabV3Plus
from methods.networks.network import ClassifierNetwork


class Joint(NamedTuple):
    """What one pass of :class:`JointNetwork` finds."""

    class_maps: Tensor
    """``[B, K, h, w]`` on the grid of the last feature, any sign."""
    class_logits: Tensor
    """``[B, K]``, the means of the class maps."""
    logits: Tensor
    """``[B, K + 1, H, W]`` of the decoder, background first."""
    features: list[Tensor]
    """``[B, C_i, h_i, w_i]``, one a layer, from fine to coarse."""


class JointNetwork(nn.Module):
    r"""A classifier whose class maps come from a convolution, and DeepLabv3+, on the same features; everything learns.

    .. math:: F_{kp} = \sum_c W_{kc} A_{cp}, \qquad z_k = \frac{1}{hw} \sum_p F_{kp}

    with the last feature A and the weights W of a 1 x 1 convolution without bias. Where the head of the classifier has
    as many weights, W begins as a copy of them: the class maps are those of the classifier then, and the logits lack
    its bias. Built in evaluation mode, as classifiers are.

    Parameters
    ----------
    network
        Classifier whose model becomes the encoder; it is not copied. Its own head is unused and keeps its values.
    classes
        Classes K without the background; by default those of the classifier.
    layers
        Stages or module names to read, from fine to coarse, two or more; by default all stages, C1 to C5 of a ResNet.
    dilations, width, low_width
        As for :class:`~methods.networks.deeplab_v3_plus.DeepLabV3Plus`.

    Attributes
    ----------
    inherited
        Whether W began as a copy of the classifier's weights.
    layers
        Names of the features, as they were given.

    Raises
    ------
    ValueError, EncoderError
        As for :class:`~methods.networks.deeplab_v3_plus.DeepLabV3Plus`.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022: a ResNet50 of stride 16,
    :func:`~methods.networks.stride.keep_stride` of S5.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> found = JointNetwork(build_classifier("small", 3), width=32)(torch.zeros(2, 3, 45, 64))
    >>> found.class_maps.shape, found.class_logits.shape, found.logits.shape
    (torch.Size([2, 3, 1, 2]), torch.Size([2, 3]), torch.Size([2, 4, 45, 64]))
    >>> [feature.shape[1] for feature in found.features]
    [24, 48, 96, 128, 160]
    """

    def __init__(
        self,
        network: ClassifierNetwork,
        classes: int | None = None,
        layers: Sequence[str] | None = None,
        *,
        dilations: Sequence[int] = DILATIONS,
        width: int = WIDTH,
        low_width: int = WIDTH,
    ) -> None:
        super().__init__()
        classes = network.classes if classes is None else classes
        self.layers = tuple(network.stages if layers is None else layers)
        self.segmenter = DeepLabV3Plus(
            network, classes, self.layers, dilations=dilations, width=width, low_width=low_width
        )
        self.classifier = nn.Conv2d(self.segmenter.encoder.channels[-1], classes, kernel_size=1, bias=False)
        self.inherited = self._inherit(network)
        self.eval()

    def forward(self, images: Tensor) -> Joint:
        """Everything of images, from one pass of the encoder.

        Parameters
        ----------
        images
            ``[B, 3, H, W]`` as the classifier takes them, of any size from 32 pixels a side on.

        Returns
        -------
        Joint
            With a graph where gradients are enabled.

        Raises
        ------
        ValueError
            Another shape, or images that are not finite.
        TypeError
            Images that are not floating point.
        """
        features = self.segmenter.features(images)
        maps: Tensor = self.classifier(features[-1])
        return Joint(maps, maps.mean(dim=(2, 3)), self.segmenter.decode(features, images.shape[2:]), features)

    def _inherit(self, network: ClassifierNetwork) -> bool:
        """Begin with the weights of a linear head, or of the 1 x 1 convolution that a native SqueezeNet has."""
        weight = getattr(network.model.get_submodule(network.head), "weight", None)
        own = self.classifier.weight
        if not isinstance(weight, Tensor) or weight.shape[:2] != own.shape[:2] or weight.numel() != own.numel():
            return False
        with torch.no_grad():
            own.copy_(weight.reshape(own.shape))
        return True
