"""Scores of boxes: what a classifier makes of an image that is sharp inside of a box and blurred outside."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from methods.proposals.sample_pixels import in_boxes
from methods.refinement.checks import require_finite


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, the border mirrored without its edge; the kernel ends at three deviations.

    Parameters
    ----------
    images
        ``[B, C, H, W]`` floating point.
    sigma
        Standard deviation in pixels. A kernel that would be wider than the image ends at its sides.

    Returns
    -------
    Tensor
        As the images.

    Raises
    ------
    ValueError
        A sigma that is not positive and finite.

    Examples
    --------
    >>> blur(torch.ones(1, 1, 4, 4), 1.0).round(decimals=4).unique().tolist()
    [1.0]
    """
    if not 0 < sigma < float("inf"):
        raise ValueError(f"expected a positive sigma, got {sigma}")
    reach = [min(round(3 * sigma), side - 1) for side in images.shape[-2:]]
    found: Tensor = gaussian_blur(images, [2 * reach[1] + 1, 2 * reach[0] + 1], [sigma, sigma])
    return found


def outside_blurred(images: Tensor, blurred: Tensor, boxes: Tensor) -> Tensor:
    """Each image inside of its box, its blurred self outside.

    Parameters
    ----------
    images, blurred
        ``[N, C, H, W]``.
    boxes
        int64 ``[N, 4]``: x0, y0, x_last + 1, y_last + 1.

    Examples
    --------
    >>> images = torch.ones(1, 1, 1, 3)
    >>> outside_blurred(images, torch.zeros_like(images), torch.tensor([[1, 0, 3, 1]])).flatten().tolist()
    [0.0, 1.0, 1.0]
    """
    inside = in_boxes(boxes.to(images.device), (images.shape[2], images.shape[3]))
    return torch.where(inside[:, None], images, blurred)


def score_boxes(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    sigma: float | None = None,
    batch_size: int = 32,
    multi_label: bool = False,
) -> Tensor:
    """Probability of a label for the image inside of each box.

    Parameters
    ----------
    classifier
        From images to logits ``[N, K]``, frozen and in evaluation mode.
    images
        ``[B, 3, H, W]`` as the classifier takes them.
    image
        int64 ``[n]``, which image each box belongs to.
    boxes
        int64 ``[n, 4]``: x0, y0, x_last + 1, y_last + 1.
    labels
        int64 ``[n]``, the class from 0 whose probability is asked for.
    sigma
        Deviation of the blur in pixels; default: a tenth of the larger side [choice], the paper's is not published.
    batch_size
        Boxes per forward pass: what bounds memory.
    multi_label
        The probability is a sigmoid, not a share of a softmax.

    Returns
    -------
    Tensor
        float32 ``[n]``.

    Raises
    ------
    ValueError
        Numbers of boxes, images and labels that differ, boxes of images that are not there, no box per forward pass, a
        sigma that is not positive, logits that are not ``[N, K]``, not finite or without a label that is asked for.

    References
    ----------
    Murtaza et al., "DiPS: Discriminative pseudo-label sampling with self-supervised transformers", 2023.

    Examples
    --------
    >>> bright = lambda images: torch.stack([images.mean((1, 2, 3)), torch.zeros(len(images))], dim=1)
    >>> score_boxes(bright, torch.zeros(1, 3, 4, 4), torch.tensor([0]), torch.tensor([[0, 0, 2, 2]]), torch.tensor([1]))
    tensor([0.5000])
    """
    if not len(image) == len(boxes) == len(labels):
        raise ValueError(f"expected as many boxes as images and labels, got {len(boxes)}, {len(image)}, {len(labels)}")
    if batch_size < 1:
        raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
    if len(image) and not 0 <= int(image.min()) <= int(image.max()) < len(images):
        raise ValueError(f"expected boxes of {len(images)} images, got {int(image.min())} to {int(image.max())}")
    blurred = blur(images, 0.1 * max(images.shape[-2:]) if sigma is None else sigma)
    scores = [torch.zeros(0)]
    with torch.no_grad():
        for start in range(0, len(boxes), batch_size):
            part = slice(start, start + batch_size)
            places = image[part].to(images.device)
            logits = classifier(outside_blurred(images[places], blurred[places], boxes[part])).float()
            scores.append(_chances(logits, labels[part], multi_label).cpu())
    return torch.cat(scores)


def _chances(logits: Tensor, labels: Tensor, multi_label: bool) -> Tensor:
    if logits.ndim != 2 or len(logits) != len(labels):
        raise ValueError(f"expected logits [{len(labels)}, K] from the classifier, got shape {tuple(logits.shape)}")
    require_finite(logits, "logits")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"expected labels of the classifier's {logits.shape[1]} classes, got {found}")
    chances = logits.sigmoid() if multi_label else logits.softmax(dim=1)
    return chances.gather(1, labels.to(chances.device)[:, None])[:, 0]
