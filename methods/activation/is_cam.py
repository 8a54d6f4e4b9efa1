"""IS-CAM: Score-CAM with masked images of growing strength, averaged."""

from itertools import accumulate

import torch
from torch import Tensor, nn

from methods.activation.observe import Score, identity
from methods.activation.perturbation import Change, Masks, masked_cam


def is_cam(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    *,
    samples: int = 10,
    rectify: bool = True,
    masks: Masks = "normalised_first",
    score: Score = identity,
    max_maps: int | None = None,
    batch: int = 16,
    precision: torch.dtype | None = None,
) -> Tensor:
    r"""Map of each pair from the mean scores of masked images scaled step by step.

    .. math:: w = \mathrm{softmax}_k \; \frac{1}{N} \sum_n y_c\big(c_n \cdot x \cdot \mathrm{mask}(A_k)\big), \qquad
        c_n = \sum_{i \le n} \frac{i}{N}

    Parameters
    ----------
    model, images, pairs, layer, rectify, masks, score, max_maps, batch, precision
        As in :func:`methods.activation.score_cam`.
    samples
        N. The steps are summed up, as published: the last image is scaled by (N + 1) / 2 and not by 1.

    Returns
    -------
    Tensor
        ``[P, h, w]`` at the layer's size, not normalised.

    Raises
    ------
    RecordingError
        As ``record``, less what concerns gradients.
    ValueError
        ``samples`` below 1, and as ``score_cam``.

    References
    ----------
    Naidu et al., IS-CAM: Integrated Score-CAM for axiomatic-based explanations, 2020.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> is_cam(net, torch.rand(1, 3, 8, 8), torch.tensor([[0, 0], [0, 1]]), "1", samples=3).shape
    torch.Size([2, 6, 6])
    """
    if samples < 1:
        raise ValueError(f"expected samples >= 1, got {samples}")
    factors = accumulate(step / samples for step in range(1, samples + 1))
    return masked_cam(
        model,
        images,
        pairs,
        layer,
        [_times(factor) for factor in factors],
        masks=masks,
        score=score,
        max_maps=max_maps,
        rectify=rectify,
        batch=batch,
        precision=precision,
    )


def _times(factor: float) -> Change:
    return lambda masks, _rows, _channels: factor * masks
