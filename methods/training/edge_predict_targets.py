"""Labels for EdgePredictMix: a decoder's own output, made to follow the image and filled up to its edges."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from methods.refinement import pamr as refining
from methods.refinement.canny import canny
from methods.refinement.certain_filter import certain_filter
from methods.refinement.edge_predict import edge_predict
from methods.refinement.pamr import DILATIONS
from methods.training.recurseed_target import ITERATIONS, over_present

Source = Literal["mask", "image"]
"""Where edges are looked for: in the refined maps, or in the image."""


def edge_predict_targets(
    logits: Tensor,
    images: Tensor,
    classes: Tensor,
    *,
    source: Source = "mask",
    pamr: bool = True,
    foreground: float = 0.55,
    background: float = 0.10,
    iterations: int = ITERATIONS,
    dilations: Sequence[int] = DILATIONS,
) -> Tensor:
    r"""Labels of images by what a decoder predicts, for :func:`~methods.training.edge_predict_mix.mix`.

    .. math:: y = \mathrm{EP}\big(\mathrm{CF}(M),\, \mathrm{canny}(\cdot)\big), \qquad
        M = \mathrm{PAMR}(Y \odot \mathrm{softmax}(z)_{1..K},\, I)

    with the edges of :math:`\mathrm{round}(255 \max_c M_c)` or those of the image.

    Parameters
    ----------
    logits
        Output z of the decoder, ``[B, K + 1, h, w]``, background first; enlarged to the size of the images (bilinear).
    images
        As shown, ``[B, 3, H, W]`` uint8.
    classes
        Classes Y of the images, ``[B, K]``, 0 or 1.
    source
        ``mask``: edges of the refined maps, as the slides draw it; ``image``: of the image, as the only public routine
        takes them.
    pamr
        Refine the probabilities of the foreground classes before they are filtered.
    foreground, background
        Bounds of the certain filter.
    iterations, dilations
        Of PAMR.

    Returns
    -------
    Tensor
        ``[B, H, W]`` uint8: 0 background, 1..K class, 255 ignore; never an absent class.

    Raises
    ------
    ValueError
        Shapes that do not belong together, an unknown source, or logits that are not finite.
    TypeError
        Images that are not uint8.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022. The training code was not released.

    Examples
    --------
    >>> logits = torch.tensor([[[[0.0, 9.0, 9.0]], [[9.0, 0.0, 0.0]], [[0.0, 0.0, 9.0]]]])
    >>> images = torch.zeros(1, 3, 1, 3, dtype=torch.uint8)
    >>> edge_predict_targets(logits, images, torch.tensor([[1, 0]]), source="image", pamr=False).tolist()
    [[[1, 0, 0]]]
    """
    _require_batch(logits, images, classes, source)

    def refined(maps: Tensor) -> Tensor:
        return refining(images.float().div_(255), maps, iterations=iterations, dilations=dilations)

    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        large = interpolate(logits.float(), images.shape[-2:], mode="bilinear", align_corners=False)
        maps = large.softmax(dim=1)[:, 1:]
        maps = over_present(refined if pamr else lambda few: few, maps, classes)
        labels = certain_filter(maps, foreground=foreground, background=background)
        seen = images if source == "image" else _as_picture(maps)
        return edge_predict(labels, canny(seen))


def _as_picture(maps: Tensor) -> Tensor:
    """The strongest class of every pixel as a grey image, ``[B, 1, H, W]`` uint8."""
    strongest = maps.amax(dim=1, keepdim=True)
    return (255 * strongest).round_().clamp_(0, 255).to(torch.uint8)


def _require_batch(logits: Tensor, images: Tensor, classes: Tensor, source: str) -> None:
    if source not in get_args(Source):
        raise ValueError(f"expected source {' or '.join(get_args(Source))}, got {source!r}")
    if (
        logits.ndim != 4
        or images.ndim != 4
        or images.shape[1] != 3
        or len(images) != len(logits)
        or classes.shape != (len(logits), logits.shape[1] - 1)
    ):
        raise ValueError(
            "expected logits [B, K + 1, h, w], images [B, 3, H, W] and classes [B, K], got "
            f"{tuple(logits.shape)}, {tuple(images.shape)} and {tuple(classes.shape)}"
        )
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images as shown, got {images.dtype}")
