"""VGG16 as weakly supervised localisation has it: three poolings instead of five, and one wide convolution on top."""

import torch
from torch import Tensor, nn

from methods.networks.network import ClassifierNetwork

BACKBONE = "vgg16_wsol"
LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "none", 512, 512, 512, "none")
WIDTH = 1024
STAGES = {"S2": "features.9", "S3": "features.16", "S4": "features.29", "S5": "conv6.1"}
PRE_POOL = {"S2_pre": "features.8", "S3_pre": "features.15"}


class Vgg16Wsol(nn.Module):
    """Thirteen convolutions of VGG16, a fourteenth of 1024 channels, average pooling and a linear head.

    The grid is an eighth of the image, 28x28 of 224x224. Where VGG16 pools for the fourth and fifth time nothing
    happens, so that the names of its convolutions, ``features.0`` to ``features.28``, and its weights stay.

    Parameters
    ----------
    classes
        Outputs of the head, at least 1.

    Raises
    ------
    ValueError
        No class.

    References
    ----------
    Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, 2020.

    Examples
    --------
    >>> Vgg16Wsol(3).eval()(torch.zeros(1, 3, 32, 40)).shape
    torch.Size([1, 3])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"expected at least one class, got {classes}")
        layers: list[nn.Module] = []
        channels = 3
        for layer in LAYERS:
            if isinstance(layer, int):
                # Rectified out of place: a recording of a convolution must not be overwritten by what follows.
                layers += [nn.Conv2d(channels, layer, kernel_size=3, padding=1), nn.ReLU(inplace=False)]
                channels = layer
            else:
                layers.append(nn.MaxPool2d(2) if layer == "pool" else nn.Identity())
        self.features = nn.Sequential(*layers)
        self.conv6 = nn.Sequential(nn.Conv2d(channels, WIDTH, kernel_size=3, padding=1), nn.ReLU(inplace=False))
        self.classifier = nn.Linear(WIDTH, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K]`` of images ``[B, 3, H, W]``."""
        features: Tensor = self.conv6(self.features(images))
        logits: Tensor = self.classifier(torch.mean(features, dim=(2, 3)))
        return logits


def build_vgg16_wsol(classes: int) -> ClassifierNetwork:
    """The classifier with its parts named, in evaluation mode and with random weights.

    Parameters
    ----------
    classes
        Outputs of the head, at least 1.

    Returns
    -------
    ClassifierNetwork
        Stages S2 and S3 are pools, S4 the last layer of VGG16, S5 the wide convolution. A backbone file need not hold
        the last (``original_heads``): published VGG16 weights fit.

    Raises
    ------
    ValueError
        No class.

    Examples
    --------
    >>> network = build_vgg16_wsol(3)
    >>> network.stages["S5"], network.head
    ('conv6.1', 'classifier')
    """
    replaced = ("conv6", "classifier.0", "classifier.3", "classifier.6")
    return ClassifierNetwork(
        BACKBONE, classes, Vgg16Wsol(classes).eval(), dict(STAGES), "classifier", replaced, dict(PRE_POOL)
    )
