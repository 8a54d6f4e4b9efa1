"""Score-CAM: a channel weighs as much as the class scores when only that channel's place is shown."""

import torch
from torch import Tensor, nn

from methods.activation.observe import Score, identity
from methods.activation.perturbation import Masks, masked_cam


def score_cam(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor,
    layer: str,
    *,
    rectify: bool = True,
    masks: Masks = "enlarged_first",
    score: Score = identity,
    max_maps: int | None = None,
    batch: int = 16,
    precision: torch.dtype | None = None,
) -> Tensor:
    r"""Map of each pair from the scores of masked images.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad w = \mathrm{softmax}_k \; y_c(x \cdot
    \mathrm{mask}(A_k))

    Parameters
    ----------
    model, images, pairs, layer
        As in :func:`methods.activation.record`; one layer. Costs one forward pass of an image per channel, whatever the
        number of classes.
    rectify
        Set negative values of the map to zero.
    masks
        How a channel becomes a mask: see :func:`methods.activation.perturbation.enlarged_masks`.
    score
        From logits ``[N, K]`` to scores ``[N, K]``, image by image. Whatever else the network returns for N images is
        welcome, an embedding for example, and then a pair's class is a column of the scores.
    max_maps
        Use only so many channels, those of most energy. None for all.
    batch
        Most masked images per forward pass, which bounds the memory; they may be of several images. Halved, with a
        warning, when memory runs out.
    precision
        Run the masked passes in this dtype under ``torch.autocast`` (``torch.bfloat16``); scores, weights and maps stay
        float32, and so does the pass that gives the features. None for the precision of images and network.

    Returns
    -------
    Tensor
        ``[P, h, w]`` at the layer's size, not normalised.

    Raises
    ------
    RecordingError
        As ``record``, less what concerns gradients.
    ValueError
        ``max_maps`` or ``batch`` below 1, unknown ``masks`` or a ``precision`` that is not floating.
    OneRowMemoryError
        One masked image alone does not fit into memory.

    References
    ----------
    Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPR-W 2020.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> score_cam(net, torch.rand(2, 3, 8, 8), torch.tensor([[1, 0], [0, 1], [1, 1]]), "1").shape
    torch.Size([3, 6, 6])
    """
    return masked_cam(
        model,
        images,
        pairs,
        layer,
        masks=masks,
        score=score,
        max_maps=max_maps,
        rectify=rectify,
        batch=batch,
        precision=precision,
    )
