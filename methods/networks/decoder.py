"""U-Net decoder of F-CAM: from the features of a classifier back to the size of the image.

A decoder knows nothing of the network its features come from but their channels, so that any backbone will do; its
parameters are all that F-CAM trains.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

WIDTHS = (256, 128, 64, 32, 16)
CLASSES = 2


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class DecoderBlock(nn.Module):
    """Twice the size, joined with the feature of that size, and two convolutions.

    Parameters
    ----------
    channels_in, skip, channels_out
        Channels of what comes from below, of the feature to join (0: none) and of the result.

    Examples
    --------
    >>> block = DecoderBlock(8, 4, 6)
    >>> block(torch.zeros(2, 8, 5, 5), torch.zeros(2, 4, 9, 9)).shape
    torch.Size([2, 6, 9, 9])
    """

    def __init__(self, channels_in: int, skip: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels_in + skip, channels_out)
        self.conv2 = _convolution(channels_out, channels_out)

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        """``[B, C_out, h, w]``, of the size of ``skip``; without one, twice that of ``features``."""
        features = interpolate(features, scale_factor=2, mode="nearest")
        if skip is not None:
            features = torch.cat([resize(features, skip.shape[-2:]), skip], dim=1)
        result: Tensor = self.conv2(self.conv1(features))
        return result


class Decoder(nn.Module):
    """U-Net decoder: as many blocks as there are features, the deepest first, the last without a skip.

    A block doubles the size (nearest), brings it to that of the skip where the two differ (bilinear, corners aligned:
    features of equal size, as an un-strided ResNet has, are allowed), concatenates and convolves twice.

    Parameters
    ----------
    channels
        Channels of the features, from the image (never joined, only counted) to the deepest.
    widths
        Channels after each block, one a block. By default the first of 256, 128, 64, 32 and 16.
    center
        Two convolutions on the deepest feature first, which keep its channels, as F-CAM has for VGG16.

    Raises
    ------
    ValueError
        Less than two features, a width too few or too many, or one that is not positive.

    References
    ----------
    Belharbi et al., F-CAM: Full Resolution Class Activation Maps via Guided Parametric Upscaling, 2022.
    Ronneberger et al., U-Net, 2015.

    Examples
    --------
    >>> decoder = Decoder((3, 8, 16), (6, 4))
    >>> decoder([torch.zeros(1, 3, 32, 32), torch.zeros(1, 8, 16, 16), torch.zeros(1, 16, 8, 8)]).shape
    torch.Size([1, 4, 32, 32])
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int] | None = None, *, center: bool = False) -> None:
        super().__init__()
        widths = WIDTHS[: len(channels) - 1] if widths is None else tuple(widths)
        if len(channels) < 2 or len(widths) != len(channels) - 1 or min((*channels, *widths)) < 1:
            raise ValueError(
                f"expected positive channels of an image and at least one feature, and one width a feature; got "
                f"channels {tuple(channels)} and widths {tuple(widths)}"
            )
        self.channels, self.widths = tuple(channels), tuple(widths)
        deepest = self.channels[-1]
        self.center = nn.Sequential(_convolution(deepest, deepest), _convolution(deepest, deepest)) if center else None
        skips = (*self.channels[-2:0:-1], 0)
        self.blocks = nn.ModuleList(map(DecoderBlock, (deepest, *self.widths[:-1]), skips, self.widths))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode features.

        Parameters
        ----------
        features
            ``[B, C_i, h_i, w_i]`` in the order of ``channels``: the image first, the deepest last.

        Returns
        -------
        Tensor
            ``[B, widths[-1], 2 h_1, 2 w_1]``: about the size of the image where the first feature has half of it.

        Raises
        ------
        ValueError
            More or less features, or channels other than the decoder was built for.
        """
        found = tuple(feature.shape[1] if feature.ndim == 4 else -1 for feature in features)
        if found != self.channels:
            raise ValueError(
                f"expected features [B, C, h, w] with channels {self.channels}, got shapes "
                f"{', '.join(str(tuple(feature.shape)) for feature in features) or 'none'}"
            )
        decoded = features[-1] if self.center is None else self.center(features[-1])
        skips = [*features[-2:0:-1], None]
        for block, skip in zip(self.blocks, skips, strict=True):
            decoded = block(decoded, skip)
        return decoded


class DecoderHead(nn.Sequential):
    """One convolution from what a decoder returns to the scores of background (0) and foreground (1).

    Parameters
    ----------
    channels_in
        Last width of the decoder.
    classes
        Outputs, by default the two of F-CAM.

    Examples
    --------
    >>> DecoderHead(16)(torch.zeros(1, 16, 20, 20), size=(19, 18)).shape
    torch.Size([1, 2, 19, 18])
    """

    def __init__(self, channels_in: int, classes: int = CLASSES) -> None:
        convolution = nn.Conv2d(channels_in, classes, kernel_size=3, padding=1)
        super().__init__(convolution)
        nn.init.xavier_uniform_(convolution.weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)

    def forward(self, features: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Logits ``[B, classes, h, w]``, brought to ``size`` (bilinear, corners aligned) where it differs."""
        logits: Tensor = self[0](features)
        return logits if size is None else resize(logits, size)


def resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners, ``[B, C, *size]``; the very same tensor where the size fits already.

    Examples
    --------
    >>> resize(torch.tensor([[[[0.0, 1.0]]]]), (1, 3)).tolist()
    [[[[0.0, 0.5, 1.0]]]]
    """
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return interpolate(values, size=tuple(size), mode="bilinear", align_corners=True)
