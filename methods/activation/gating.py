"""From the probabilities of a decoder to labels, with only the classes that the image has."""

import torch
from torch import Tensor

SMALL = 1e-5
IGNORE = 255
THRESHOLD = 0.34


def present_classes(scores: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Classes that an image is taken to have.

    Parameters
    ----------
    scores
        Probabilities of the classes, ``[B, K]`` floating point in 0..1.
    threshold
        Lowest score that counts, in 0..1, compared in the precision of the scores.

    Returns
    -------
    Tensor
        ``[B, K]`` bool. An image may have no class.

    Raises
    ------
    ValueError
        Another shape, a threshold or scores outside 0..1, or scores that are not finite.
    TypeError
        Scores that are not floating point.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022: inference; the threshold is that of PASCAL VOC.

    Examples
    --------
    >>> present_classes(torch.tensor([[0.9, 0.34, 0.33]])).tolist()
    [[True, True, False]]
    """
    if scores.ndim != 2 or not 0 <= threshold <= 1:
        raise ValueError(f"expected scores [B, K] and a threshold in 0..1, got {tuple(scores.shape)} and {threshold}")
    _require_shares(scores, "scores")
    if (scores > 1).any():
        raise ValueError(f"expected scores in 0..1, got up to {scores.max().item():.4g}: take the sigmoid of logits")
    return scores >= threshold


def gate_classes(probabilities: Tensor, present: Tensor, *, normalise: bool = True) -> Tensor:
    r"""Probabilities without the classes that an image does not have.

    .. math:: \hat P_{0,p} = P_{0,p}, \qquad
        \hat P_{k,p} = y_k \, \frac{P_{k,p}}{\max_q P_{k,q} + 10^{-5}} \quad \text{for } k > 0

    Parameters
    ----------
    probabilities
        ``[B, K + 1, H, W]`` floating point, 0 and above, background first.
    present
        Classes y of the images, ``[B, K]`` bool.
    normalise
        Divide every foreground channel by its maximum over the image, as RecurSeed does; the background never is.

    Returns
    -------
    Tensor
        ``[B, K + 1, H, W]`` of the same type. Sums over the classes are not 1 any more.

    Raises
    ------
    ValueError
        Shapes that do not belong together, more than 254 classes, or values that are negative or not finite.
    TypeError
        Probabilities that are not floating point, or classes that are not bool.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022: inference.

    Examples
    --------
    >>> probabilities = torch.tensor([[[[0.5, 0.2]], [[0.1, 0.2]], [[0.4, 0.6]]]])
    >>> gated = gate_classes(probabilities, torch.tensor([[True, False]]))
    >>> gated[0, :, 0].round(decimals=2).tolist()
    [[0.5, 0.20000000298023224], [0.5, 1.0], [0.0, 0.0]]
    """
    _require_probabilities(probabilities)
    if present.dtype != torch.bool:
        raise TypeError(f"expected present classes as bool, got {present.dtype}: present_classes makes them")
    batch, channels = probabilities.shape[:2]
    if tuple(present.shape) != (batch, channels - 1):
        raise ValueError(
            f"expected present classes [B, K] for probabilities [B, K + 1, H, W], got {tuple(present.shape)} for "
            f"{tuple(probabilities.shape)}"
        )
    background, foreground = probabilities[:, :1], probabilities[:, 1:]
    if normalise and foreground.numel():
        foreground = foreground / (foreground.amax(dim=(2, 3), keepdim=True) + SMALL)
    return torch.cat([background, foreground * present[:, :, None, None].to(foreground)], dim=1)


def labels_of(probabilities: Tensor) -> Tensor:
    """The most probable class of every pixel.

    Parameters
    ----------
    probabilities
        ``[B, K + 1, H, W]`` floating point, 0 and above, background first; as :func:`gate_classes` returns them.

    Returns
    -------
    Tensor
        ``[B, H, W]`` uint8: 0 background, 1..K class. Equal values: the first, so that the background wins over all.

    Raises
    ------
    ValueError
        Another shape, more than 254 classes, or values that are negative or not finite.
    TypeError
        Probabilities that are not floating point.

    Examples
    --------
    >>> labels_of(torch.tensor([[[[0.5, 0.2]], [[0.5, 0.3]], [[0.0, 0.5]]]])).tolist()
    [[[0, 2]]]
    """
    _require_probabilities(probabilities)
    return probabilities.max(dim=1).indices.to(torch.uint8)


def confidence(probabilities: Tensor) -> Tensor:
    """Share of the most probable class of every pixel, once all classes sum to 1 again.

    Parameters
    ----------
    probabilities
        As for :func:`labels_of`.

    Returns
    -------
    Tensor
        ``[B, H, W]`` in 0..1, at least float32; 0 where all classes are 0.

    Raises
    ------
    ValueError, TypeError
        As for :func:`labels_of`.

    Examples
    --------
    >>> confidence(torch.tensor([[[[0.3, 0.0]], [[0.1, 0.0]]]])).round(decimals=2).tolist()
    [[[0.75, 0.0]]]
    """
    _require_probabilities(probabilities)
    exact = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    # Divided by the strongest first: sums of the smallest numbers would lose their digits.
    strongest = exact.amax(dim=1, keepdim=True)
    shares = exact / strongest.where(strongest > 0, 1)
    return (strongest[:, 0] > 0).to(exact) / shares.sum(dim=1).clamp(min=1)


def _require_probabilities(probabilities: Tensor) -> None:
    if probabilities.ndim != 4 or not 1 < probabilities.shape[1] <= IGNORE:
        raise ValueError(
            f"expected probabilities [B, K + 1, H, W] with 1 to 254 classes, got shape {tuple(probabilities.shape)}"
        )
    _require_shares(probabilities, "probabilities")


def _require_shares(values: Tensor, what: str) -> None:
    """Refuse what would win a comparison without a word: NaN, infinity, and a background below 0."""
    if not values.is_floating_point():
        raise TypeError(f"expected floating point {what}, got {values.dtype}")
    if wrong := int((~(values.isfinite() & (values >= 0))).sum()):
        raise ValueError(
            f"expected finite {what} of 0 and above, got {wrong} of {values.numel()} values NaN, infinite or negative"
        )
