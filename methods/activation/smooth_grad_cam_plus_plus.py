"""Smooth Grad-CAM++: Grad-CAM++ with moments of the gradient over noisy copies of the image."""

import logging

import torch
from torch import Tensor, nn

from methods.activation.inputs import at_least_float32, weighted_sum
from methods.activation.observe import observe
from methods.activation.record import record

EPSILON = 1e-8

_log = logging.getLogger(__name__)


def smooth_noises(images: Tensor, samples: int = 4, sigma: float = 0.3, seed: int = 0) -> Tensor:
    """Normal noise for images, the same for each, so that a map does not depend on which images share its batch.

    Parameters
    ----------
    images
        ``[B, 3, H, W]``: only shape, dtype and device count.
    samples, sigma
        How many noises S, and their standard deviation on the preprocessed image.
    seed
        Start of the noise, drawn on the CPU in float32: the same on every device.

    Returns
    -------
    Tensor
        ``[S, B, 3, H, W]`` in the images' dtype and on their device, a view of ``[S, 1, 3, H, W]``.

    Raises
    ------
    ValueError
        ``samples`` below 1 or a negative ``sigma``.

    Examples
    --------
    >>> noises = smooth_noises(torch.zeros(2, 3, 8, 8))
    >>> noises.shape, bool((noises[:, 0] == noises[:, 1]).all())
    (torch.Size([4, 2, 3, 8, 8]), True)
    """
    if samples < 1 or not sigma >= 0:
        raise ValueError(f"expected samples >= 1 and sigma >= 0, got samples={samples}, sigma={sigma}")
    generator = torch.Generator().manual_seed(seed)
    noises = sigma * torch.randn((samples, 1, *images.shape[1:]), generator=generator)
    return noises.to(images).expand(-1, len(images), -1, -1, -1)


def smooth_grad_cam_plus_plus(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    noises: Tensor,
    rectify: bool = True,
    *,
    allow_zero_gradients: bool = False,
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
        ``[S, B, 3, H, W]``, added to the preprocessed images, one forward and backward pass each: :func:`smooth_noises`
        gives the paper's S = 4 samples of standard deviation 0.3.
    rectify
        Set negative values of the map to zero.
    allow_zero_gradients
        As in ``record``: a run over many images will meet one without any gradient, whose map is then zeros.

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
    >>> smooth_grad_cam_plus_plus(net, images, torch.tensor([[0, 1]]), "1", smooth_noises(images)).shape
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
        seen = record(model, images + noise, pairs, [layer], allow_zero_gradients=allow_zero_gradients)
        gradients = at_least_float32(seen.gradients[layer])
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
