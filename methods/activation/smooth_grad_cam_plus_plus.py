"""Smooth Grad-CAM++: Grad-CAM++ with moments of the gradient over noisy copies of the image."""

import logging

import torch
from torch import Tensor, nn

from methods.activation.inputs import at_least_float32, weighted_sum
from methods.activation.observe import observe
from methods.activation.record import record

EPSILON = 1e-8

_log = logging.getLogger(__name__)


def smooth_grad_cam_plus_plus(
    model: nn.Module, images: Tensor, pairs: Tensor, layer: str, noises: Tensor, rectify: bool = True
) -> Tensor:
    r"""Map of each pair from the mean powers of its gradient over noisy images.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \quad w_k = \sum_{ij} \alpha_{kij} \mathrm{ReLU}(m_{1,kij}),
    \quad
        \alpha = \frac{m_2}{2 m_2 + \sum_{ij} A\, m_3 + 10^{-8}}, \quad m_n = \frac{1}{S} \sum_s g_s^n

    with A from the clean image and :math:`\alpha = 0` where :math:`m_2 = 0`.

    Parameters
    ----------
    model, images, pairs, layer
        As in :func:`methods.activation.record`; one layer.
    noises
        ``[S, B, 3, H, W]``, added to the preprocessed images: the paper's S = 4 samples of standard deviation 0.3 are
        ``0.3 * torch.randn(4, *images.shape)``.
    rectify
        Set negative values of the map to zero.

    Returns
    -------
    Tensor
        ``[P, h, w]``, not normalised.

    Raises
    ------
    RecordingError
        As ``record``.
    ValueError
        Noises that do not fit the images.

    Notes
    -----
    The denominator can be small or negative where activations are negative or cubes are. Nothing is clipped; how often
    that happens at weights that count is logged. Public packages use the gradient and activation of the last noisy
    pass alone.

    References
    ----------
    Omeiza et al., Smooth Grad-CAM++, 2019.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> images = torch.rand(1, 3, 8, 8)
    >>> smooth_grad_cam_plus_plus(net, images, torch.tensor([[0, 1]]), "1", 0.3 * torch.randn(4, *images.shape)).shape
    torch.Size([1, 6, 6])
    """
    if noises.ndim != 5 or len(noises) == 0 or noises.shape[1:] != images.shape:
        raise ValueError(
            f"expected noises [S, B, 3, H, W] for images {tuple(images.shape)}, got shape {tuple(noises.shape)}"
        )
    clean = at_least_float32(observe(model, images, pairs, [layer])[0][layer])
    activations = clean[pairs[:, 0].to(clean.device)]
    moments = [torch.zeros_like(activations) for _ in range(3)]
    for noise in noises:
        gradients = at_least_float32(record(model, images + noise, pairs, [layer]).gradients[layer])
        power = gradients / len(noises)
        for moment in moments:
            moment += power
            power = power * gradients
    first, second, third = moments
    denominator = 2 * second + (activations * third).sum((2, 3), keepdim=True) + EPSILON
    dropped = (first <= 0) | (second == 0)
    negative = int(((denominator <= 0) & ~dropped).sum())
    if negative:
        _log.warning("%d of %d weights of layer %r have a denominator <= 0", negative, int((~dropped).sum()), layer)
    weights = (second / denominator * first).masked_fill_(dropped, 0).sum((2, 3))
    return weighted_sum(activations, weights, rectify)
