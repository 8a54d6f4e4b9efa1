"""Atrous spatial pyramid pooling: what is around a pixel, near and far, at the grid of one feature."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DILATIONS = (1, 6, 12, 18)
WIDTH = 256
GROUPS = 4


class ASPP(nn.Module):
    """Convolutions of several dilations and the mean of the image, side by side, brought together by one more.

    Dilation 1 is a 1 x 1 convolution, every other one 3 x 3. The mean of all pixels has a 1 x 1 convolution of its own
    and is repeated over the grid. All are followed by group norm of 4 groups and ReLU, as is the 1 x 1 convolution of
    their concatenation.

    Parameters
    ----------
    channels
        Channels of the feature.
    dilations
        Positive, each once.
    width
        Channels of every branch and of the result, a multiple of 8.

    Raises
    ------
    ValueError
        No channel, no dilation, one that is not positive or given twice, or another width.

    References
    ----------
    Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018.

    Notes
    -----
    Published networks have batch norms. The mean of an image is one value a channel: in training, batch norm fails on
    a batch of one image and makes plus or minus one of a batch of two. Group norm looks at the channels of one image,
    works on a grid of one pixel, and is the same in training and evaluation.

    Examples
    --------
    >>> ASPP(32, width=16)(torch.zeros(2, 32, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(self, channels: int, dilations: Sequence[int] = DILATIONS, width: int = WIDTH) -> None:
        super().__init__()
        if channels < 1 or not dilations or min(dilations) < 1 or len(set(dilations)) < len(dilations):
            raise ValueError(
                f"expected channels >= 1 and positive dilations, each once; got channels={channels}, "
                f"dilations={tuple(dilations)}"
            )
        self.dilations = tuple(dilations)
        self.branches = nn.ModuleList(
            convolution(channels, width, kernel=1 if dilation == 1 else 3, dilation=dilation) for dilation in dilations
        )
        self.pooled = convolution(channels, width)
        self.joined = convolution(width * (len(dilations) + 1), width)

    def forward(self, features: Tensor) -> Tensor:
        """Context of features.

        Parameters
        ----------
        features
            ``[B, C, h, w]`` of any grid.

        Returns
        -------
        Tensor
            ``[B, width, h, w]``, 0 and above.
        """
        mean = self.pooled(features.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *features.shape[2:])
        result: Tensor = self.joined(torch.cat([*(branch(features) for branch in self.branches), mean], dim=1))
        return result


def convolution(channels: int, width: int, *, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the grid, group norm of 4 groups, ReLU.

    Raises
    ------
    ValueError
        A width that is not a multiple of 8: a group of one channel would be 0 on a grid of one pixel.

    Examples
    --------
    >>> convolution(3, 8, kernel=3, dilation=6)(torch.zeros(1, 3, 5, 4)).shape
    torch.Size([1, 8, 5, 4])
    """
    if width < 1 or width % (2 * GROUPS):
        raise ValueError(f"expected a width that is a multiple of {2 * GROUPS}, got {width}")
    layer = nn.Conv2d(channels, width, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.GroupNorm(GROUPS, width), nn.ReLU())
