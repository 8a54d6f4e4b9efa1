"""Ablation-CAM: a channel weighs as much as the class loses when the channel is set to zero."""

from functools import partial

import torch
from torch import Tensor, nn

from methods.activation.inputs import at_least_float32
from methods.activation.perturbation import weighted_channel_maps
from methods.activation.taps import replaced


def ablation_cam(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    *,
    rectify: bool = True,
    max_maps: int | None = None,
    batch: int = 16,
) -> Tensor:
    r"""Map of each pair from the logits of a network without one channel.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad w_k = \frac{y_c - y_c^{A_k = 0}}{y_c}

    Parameters
    ----------
    model, images, pairs, layer, rectify, max_maps, batch
        As in :func:`methods.activation.score_cam`. Channels are always ablated to zero.

    Returns
    -------
    Tensor
        ``[P, h, w]`` at the layer's size, not normalised. A logit of exactly zero leaves the loss undivided.

    Raises
    ------
    RecordingError
        As ``record``, less what concerns gradients.
    ValueError
        ``max_maps`` or ``batch`` below 1.

    References
    ----------
    Desai and Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization, WACV 2020.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> ablation_cam(net, torch.rand(1, 3, 8, 8), torch.tensor([[0, 0], [0, 1]]), "1").shape
    torch.Size([2, 6, 6])
    """
    if batch < 1:
        raise ValueError(f"expected a batch of at least 1, got {batch}")

    def weigh(row: int, _used: Tensor, channels: Tensor, logits: Tensor) -> Tensor:
        return relative_losses(model, images[row], layer, channels, logits, batch)

    return weighted_channel_maps(model, images, pairs, layer, weigh, max_maps=max_maps, rectify=rectify)


def relative_losses(
    model: nn.Module, image: Tensor, layer: str, channels: Tensor, logits: Tensor, batch: int = 16
) -> Tensor:
    """Share of each logit ``[K]`` of one image ``[3, H, W]`` that goes with each of ``channels`` ``[N]``: ``[N, K]``.

    The caller holds the network in evaluation mode and without gradients.
    """
    parts = []
    for start in range(0, len(channels), batch):
        ablated = channels[start : start + batch]
        with replaced(model, layer, partial(_without, channels=ablated)):
            parts.append(at_least_float32(model(image.repeat(len(ablated), 1, 1, 1))))
    whole = at_least_float32(logits)
    return (whole - torch.cat(parts)) / torch.where(whole == 0, 1, whole)


def _without(output: Tensor, channels: Tensor) -> Tensor:
    """A copy ``[N, C, h, w]`` whose row n has channel ``channels[n]`` at zero."""
    output = output.clone()
    output[torch.arange(len(channels), device=output.device), channels] = 0
    return output
