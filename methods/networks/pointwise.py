"""Convolutions of one pixel, sent the fast way on one core."""

from torch import nn


def hasten_pointwise(model: nn.Module) -> int:
    """Let oneDNN compute the 1x1 convolutions of a network on a CPU, in place; results stay the same up to rounding.

    On one thread and with less than 16 images, PyTorch sends a plain 1x1 float32 convolution to a general routine that
    takes two to three times as long, above all backwards; a dilated one goes to oneDNN. Dilation moves the pixels of a
    kernel apart, of which there is one, so it changes nothing.

    Parameters
    ----------
    model
        A network on a CPU. Elsewhere this helps nothing.

    Returns
    -------
    int
        Convolutions changed.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3))
    >>> hasten_pointwise(net), net[0].dilation, net[1].dilation
    (1, (2, 2), (1, 1))
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.dilation == (1, 1):
            module.dilation = (2, 2)
            changed += 1
    return changed
