"""Partial cross entropy: learn from the few pixels that seeds have labelled and from no other."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -255


def partial_cross_entropy(logits: Tensor, seeds: Tensor, ignore: int = IGNORE) -> Tensor:
    r"""Mean cross entropy over the labelled pixels of a batch.

    .. math:: L = -\frac{1}{|\Omega|} \sum_{p \in \Omega} \log \mathrm{softmax}(z_p)_{y_p}

    Parameters
    ----------
    logits
        ``[B, K, H, W]`` floating point; channel 0 is background.
    seeds
        Class of each pixel, ``[B, H, W]`` int64: 0..K - 1, or ``ignore`` where nothing is known.
    ignore
        The label to leave out. 255 suits labels of the certain filter.

    Returns
    -------
    Tensor
        Scalar, at least float32. Every labelled pixel counts alike, whichever image it is in. A batch without a label
        gives 0, with a graph: its gradient is 0 everywhere.

    Raises
    ------
    ValueError
        Shapes that do not belong together, or a label that is neither a class nor ``ignore``.
    TypeError
        Logits that are not floating point, or seeds that are not int64.

    References
    ----------
    Belharbi et al., F-CAM, 2022, section 3: the seeds' term. The paper writes a sum, the authors compute this mean.

    Examples
    --------
    >>> logits = torch.tensor([[[[0.0, 3.0]], [[0.0, -3.0]]]])
    >>> round(partial_cross_entropy(logits, torch.tensor([[[1, -255]]])).item(), 4)
    0.6931
    """
    _require_seeds(logits, seeds, ignore)
    # A sum of float16 overflows where a mean would not.
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(exact, seeds, ignore_index=ignore, reduction="sum")
    return total / (seeds != ignore).sum().clamp(min=1)


def _require_seeds(logits: Tensor, seeds: Tensor, ignore: int) -> None:
    """Refuse what cross entropy would take for something else, or report without saying where."""
    if logits.ndim != 4 or logits.shape[1] == 0 or seeds.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"expected logits [B, K, H, W] and seeds [B, H, W], got {tuple(logits.shape)} and {tuple(seeds.shape)}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"expected floating point logits, got {logits.dtype}")
    if seeds.dtype != torch.int64:
        raise TypeError(f"expected int64 seeds, got {seeds.dtype}")
    unknown = (seeds != ignore) & ((seeds < 0) | (seeds >= logits.shape[1]))
    if bool(unknown.any()):
        found = sorted(set(seeds[unknown].tolist()))[:5]
        raise ValueError(
            f"expected seeds 0..{logits.shape[1] - 1} or ignore={ignore}, got {found} at {int(unknown.sum())} pixels"
        )
