"""Ablation-CAM: a channel weighs as much as the class loses when the channel is set to zero."""

import torch
from torch import Tensor, nn

from methods.activation.from_layer import Route, find_route
from methods.activation.halving import halving
from methods.activation.inputs import at_least_float32
from methods.activation.observe import Score, identity
from methods.activation.perturbation import weighted_channel_maps


def ablation_cam(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    *,
    rectify: bool = True,
    score: Score = identity,
    max_maps: int | None = None,
    batch: int = 16,
) -> Tensor:
    r"""Map of each pair from the logits of a network without one channel.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad w_k = \frac{y_c - y_c^{A_k = 0}}{y_c}

    Parameters
    ----------
    model, images, pairs, layer, rectify, score, max_maps
        As in :func:`methods.activation.score_cam`. Channels are always ablated to zero.
    batch
        Most images that the network may hold at a time, which bounds the memory. Behind the layer, where outputs are
        smaller than the largest one of the network, accordingly more rows run at once.

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
    OneRowMemoryError
        One image alone does not fit into memory.

    Notes
    -----
    What comes before the layer runs once per batch of channels and not once per channel, wherever the network allows
    it: see :func:`methods.activation.from_layer.find_route`. There is no reduced precision: a channel's loss is a small
    difference of two large numbers.

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

    def weigh(_features: Tensor, rows: Tensor, channels: Tensor, scores: Tensor) -> Tensor:
        # How a network is built does not depend on the image: one trial serves the batch.
        route = find_route(model, images[int(rows[0])], layer, batch)
        losses = [
            _losses(route, images[row], channels[place], scores[row], score) for place, row in enumerate(rows.tolist())
        ]
        return torch.stack(losses, 1)

    return weighted_channel_maps(model, images, pairs, layer, weigh, score=score, max_maps=max_maps, rectify=rectify)


def relative_losses(
    model: nn.Module, image: Tensor, layer: str, channels: Tensor, logits: Tensor, batch: int = 16
) -> Tensor:
    """Share of each logit ``[K]`` of one image ``[3, H, W]`` that goes with each of ``channels`` ``[N]``: ``[N, K]``.

    The caller holds the network in evaluation mode and without gradients.
    """
    return _losses(find_route(model, image, layer, batch), image, channels, logits, identity)


def _losses(route: Route, image: Tensor, channels: Tensor, scores: Tensor, score: Score) -> Tensor:
    def ablated(part: slice) -> Tensor:
        these = channels[part]

        def change(output: Tensor) -> Tensor:
            output[torch.arange(len(these), device=output.device), these] = 0
            return output

        return at_least_float32(score(route(image, len(these), change)))

    whole = at_least_float32(scores)
    parts, _ = halving(ablated, len(channels), route.rows)
    return (whole - torch.cat(parts)) / torch.where(whole == 0, 1, whole)
