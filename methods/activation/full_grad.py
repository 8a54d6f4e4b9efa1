"""FullGrad: the saliency of the input and of every bias in one map at the images' size."""

import torch
from torch import Tensor, nn

from methods.activation.enlarge import enlarge
from methods.activation.full_gradients import full_gradients, times_bias
from methods.activation.fuse import min_max
from methods.activation.truncate import truncate

EPSILON = 1e-6


def full_grad(model: nn.Module, images: Tensor, pairs: Tensor, truncation: int | None = None) -> Tensor:
    r"""Map of each pair from its full gradients.

    .. math:: S = \sum_c \Psi(x \cdot \nabla_x y) + \sum_l \sum_c \Psi(b_l \cdot \nabla_{z_l} y)

    :math:`\Psi(v)` takes the magnitude, brings it to 0..1 over channels and space together (:math:`10^{-6}` in the
    divisor) and enlarges bilinearly with corners aligned. Layers are all convolutions and batch normalisations with a
    bias.

    Parameters
    ----------
    model, images, pairs
        As in :func:`methods.activation.record`.
    truncation
        None for all gradients, or the percentile of :func:`methods.activation.truncate`, by channel, for the gradients
        of the layers (LT-FullGrad): 0 keeps the positive ones. The input's gradient is never truncated.

    Returns
    -------
    Tensor
        ``[P, H, W]``, not normalised. A NaN stays visible.

    Raises
    ------
    RecordingError
        As ``record`` and :func:`methods.activation.full_gradients`.
    ValueError
        A truncation that is not an integer in 0..100.

    Notes
    -----
    The split of the logit has no remainder only for ReLU-like activations; ``full_gradients(...).total()`` tells.

    References
    ----------
    Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019; LTGrad-CAM.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> full_grad(net, torch.rand(1, 3, 8, 8), torch.tensor([[0, 1], [0, 0]])).shape
    torch.Size([2, 8, 8])
    """
    if truncation is not None:
        truncate(torch.zeros(1, 1, 1, 1), truncation)  # Refuses a wrong percentile before the network runs.
    found = full_gradients(model, images, pairs)
    size = (images.shape[2], images.shape[3])
    saliency = _spread(found.images * found.input_gradients, size)
    for layer, bias in found.biases.items():
        gradients = found.gradients[layer]
        if gradients.ndim != 4:
            continue
        if truncation is not None:
            gradients = truncate(gradients, truncation)
        saliency += _spread(times_bias(gradients, bias), size)
    return saliency


def _spread(term: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum over channels of the normalised magnitudes, at the images' size: enlarging is linear, so it may come last."""
    return enlarge(min_max(term.abs(), EPSILON).sum(1), size, align_corners=True)
