"""SS-CAM: Score-CAM with noise on the masks, averaged."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from methods.activation.perturbation import Masks, Score, identity, masked_batches, masked_cam


def ss_cam(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    *,
    samples: int = 35,
    sigma: float = 2.0,
    seed: int = 0,
    noises: Tensor | None = None,
    rectify: bool = True,
    masks: Masks = "normalised_first",
    score: Score = identity,
    max_maps: int | None = None,
    batch: int = 16,
) -> Tensor:
    r"""Map of each pair from the mean scores of images under noisy masks.

    .. math:: w = \mathrm{softmax}_k \; \frac{1}{N} \sum_n y_c\big(x \cdot (\mathrm{mask}(A_k) + \epsilon_{nk})\big),
    \qquad
        \epsilon \sim \mathcal{N}(0, \sigma^2)

    Parameters
    ----------
    model, images, pairs, layer, rectify, masks, score, max_maps, batch
        As in :func:`methods.activation.score_cam`.
    samples, sigma
        N and the standard deviation of the noise, independent per sample, mask and pixel.
    seed
        Start of the noise, the same for every image, so that a map depends neither on the batch nor on other images.
    noises
        ``[N, B, C, H, W]``, already scaled, in place of drawn noise: ``samples``, ``sigma`` and ``seed`` are then
        unused.

    Returns
    -------
    Tensor
        ``[P, h, w]`` at the layer's size, not normalised.

    Raises
    ------
    RecordingError
        As ``record``, less what concerns gradients.
    ValueError
        ``samples``, ``max_maps`` or ``batch`` below 1, or noises that do not fit images and layer; and a negative
        ``sigma``.

    References
    ----------
    Naidu and Michael, SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization, 2020.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> ss_cam(net, torch.rand(1, 3, 8, 8), torch.tensor([[0, 0], [0, 1]]), "1", samples=2).shape
    torch.Size([2, 6, 6])
    """
    _check(images, samples, sigma, noises)

    def noisy(row: int, features: Tensor, channels: Tensor) -> Iterator[Iterator[Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for sample in range(samples if noises is None else len(noises)):
            adjust = _drawn(sigma, generator) if noises is None else _given(noises[sample, row], channels)
            yield masked_batches(images[row], features, masks, batch, adjust)

    return masked_cam(model, images, pairs, layer, noisy, score=score, max_maps=max_maps, rectify=rectify)


def _check(images: Tensor, samples: int, sigma: float, noises: Tensor | None) -> None:
    if samples < 1 or not sigma >= 0:
        raise ValueError(f"expected samples >= 1 and sigma >= 0, got samples={samples}, sigma={sigma}")
    if noises is None:
        return
    fits = noises.ndim == 5 and len(noises) > 0 and len(noises[0]) == len(images)
    if not fits or noises.shape[3:] != images.shape[2:]:
        raise ValueError(
            f"expected noises [N, B, C, H, W] for images {tuple(images.shape)}, got shape {tuple(noises.shape)}"
        )


def _drawn(sigma: float, generator: torch.Generator) -> Callable[[Tensor, int], Tensor]:
    """Noise drawn mask by mask, on the CPU: the same whatever the batch and the device."""

    def adjust(mask: Tensor, _start: int) -> Tensor:
        noise = torch.stack([torch.randn(mask.shape[1:], generator=generator) for _ in mask])
        return mask + sigma * noise.to(mask)

    return adjust


def _given(noise: Tensor, channels: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Noise of one sample and image, ``[C, H, W]``, for the channels in use."""
    if len(noise) <= int(channels.max()):
        raise ValueError(f"expected noises for every channel of the layer, got {len(noise)}")

    def adjust(mask: Tensor, start: int) -> Tensor:
        return mask + noise[channels[start : start + len(mask)].to(noise.device)].to(mask)

    return adjust
