"""Un-striding: a finer grid from the last stages of a ResNet, with the same weights."""

from collections.abc import Sequence

from torch import nn

from methods.networks.network import ClassifierNetwork


class StrideError(ValueError):
    """A stage that has no stride to take out."""


def keep_stride(network: ClassifierNetwork, stages: Sequence[str] = ("S4", "S5")) -> int:
    """Take the stride out of stages of a ResNet, in place: S4 and S5 then have the grid of S3, an eighth of the image.

    Weights fit as before, nothing is dilated. F-CAM has its ResNet50 so.

    Parameters
    ----------
    network
        Its model is changed.
    stages
        The stages to change.

    Returns
    -------
    int
        Convolutions changed.

    Raises
    ------
    StrideError
        An unknown stage, or one without a strided convolution: nothing is changed then.

    Examples
    --------
    >>> import torch
    >>> from methods.networks import build_classifier
    >>> network = build_classifier("resnet18", 3)
    >>> keep_stride(network)
    4
    >>> from methods.networks.encoder import Encoder
    >>> Encoder(network)(torch.zeros(1, 3, 224, 224))[-1].shape
    torch.Size([1, 512, 28, 28])
    """
    strided: list[nn.Conv2d] = []
    for stage in stages:
        inside = network.model.get_submodule(network.stages[stage]).modules() if stage in network.stages else ()
        found = [module for module in inside if isinstance(module, nn.Conv2d) and max(module.stride) > 1]
        if not found:
            raise StrideError(
                f"expected stages of {network.backbone} with a strided convolution, found none in {stage!r}"
            )
        strided += found
    for module in strided:
        module.stride = (1, 1)
    return len(strided)
