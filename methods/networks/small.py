"""A small convolutional classifier that trains from scratch on a CPU in minutes.

Five stages that each halve the grid, global average pooling and one linear layer: what class activation mapping needs,
and little more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (24, 48, 96, 128, 160)


def _stage(channels_in: int, channels_out: int) -> nn.Sequential:
    # Rectified out of place: a recording of the batch norm or of the ReLU must not be overwritten by what follows.
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=False),
        nn.MaxPool2d(2),
    )


class SmallNet(nn.Module):
    """Five stages of convolution, batch norm, ReLU and pooling, then average pooling and a linear head.

    Parameters
    ----------
    classes
        Outputs of the head, at least 1.
    widths
        Channels after each of the five stages.

    Raises
    ------
    ValueError
        No class, or not five positive widths.

    Notes
    -----
    Stages are the modules ``stages.0`` to ``stages.4``; their ReLUs before the pooling are ``stages.0.2`` to
    ``stages.4.2``. Strides are 2, 4, 8, 16 and 32, so an image needs at least 32 pixels a side.

    Examples
    --------
    >>> SmallNet(3).eval()(torch.zeros(2, 3, 64, 48)).shape
    torch.Size([2, 3])
    """

    def __init__(self, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"expected at least one class, got {classes}")
        if len(widths) != len(WIDTHS) or min(widths) < 1:
            raise ValueError(f"expected five positive widths, got {tuple(widths)}")
        self.stages = nn.Sequential(*map(_stage, (3, *widths[:-1]), widths))
        self.head = nn.Linear(widths[-1], classes)
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, 3, H, W)``."""
        features: Tensor = self.stages(images)
        logits: Tensor = self.head(torch.mean(features, dim=(2, 3)))
        return logits
