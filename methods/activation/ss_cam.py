"""SS-CAM: Score-CAM with noise on the masks, averaged."""

import torch
from torch import Tensor, nn

from methods.activation.observe import Score, identity
from methods.activation.perturbation import Change, Masks, masked_cam


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
    precision: torch.dtype | None = None,
) -> Tensor:
    r"""Map of each pair from the mean scores of images under noisy masks.

    .. math:: w = \mathrm{softmax}_k \; \frac{1}{N} \sum_n y_c\big(x \cdot (\mathrm{mask}(A_k) + \epsilon_{nk})\big),
    \qquad
        \epsilon \sim \mathcal{N}(0, \sigma^2)

    Parameters
    ----------
    model, images, pairs, layer, rectify, masks, score, max_maps, batch, precision
        As in :func:`methods.activation.score_cam`.
    samples, sigma
        N and the standard deviation of the noise, independent per sample, mask and pixel.
    seed
        Start of the noise. That of a sample and channel is the same for every image and drawn on the CPU, so that a
        map depends neither on the batch, nor on other images, nor on the device, nor on which other channels are used.
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
        ``samples`` below 1, a negative ``sigma``, noises that do not fit images and layer, and as ``score_cam``.

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
    changes = _drawn(samples, sigma, seed) if noises is None else [_given(noise) for noise in noises]
    return masked_cam(
        model,
        images,
        pairs,
        layer,
        changes,
        masks=masks,
        score=score,
        max_maps=max_maps,
        rectify=rectify,
        batch=batch,
        precision=precision,
    )


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


def _drawn(samples: int, sigma: float, seed: int) -> list[Change]:
    """A change per sample. Each channel's noise has a seed of its own: a batch may be repeated in parts."""
    seeds = torch.randint(2**62, (samples,), generator=torch.Generator().manual_seed(seed))

    def noisy(start: int) -> Change:
        def change(masks: Tensor, _rows: Tensor, channels: Tensor) -> Tensor:
            drawn: dict[int, Tensor] = {}
            for channel in channels.tolist():
                if channel not in drawn:
                    generator = torch.Generator().manual_seed(start + channel)
                    drawn[channel] = torch.randn(masks.shape[1:], generator=generator).to(masks)
            return masks + sigma * torch.stack([drawn[channel] for channel in channels.tolist()])

        return change

    return [noisy(start) for start in seeds.tolist()]


def _given(noise: Tensor) -> Change:
    """The noise of one sample, ``[B, C, H, W]``."""

    def change(masks: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
        if noise.shape[1] <= int(channels.max()):
            raise ValueError(f"expected noises for every channel of the layer, got {noise.shape[1]}")
        return masks + noise[rows.to(noise.device), channels.to(noise.device)].to(masks)

    return change
