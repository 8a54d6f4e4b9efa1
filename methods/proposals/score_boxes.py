"""Scores of boxes: what a classifier makes of an image that is sharp inside of a box and blurred outside."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, the border mirrored without its edge; the kernel ends at three deviations.

    Parameters
    ----------
    images
        ``[B, C, H, W]`` floating point.
    sigma
        Standard deviation in pixels. A kernel that would be wider than the image ends at its sides.

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
    """
    rows = torch.arange(images.shape[2], device=images.device)[None, :, None]
    columns = torch.arange(images.shape[3], device=images.device)[None, None, :]
    x0, y0, x1, y1 = (one[:, None, None] for one in boxes.to(images.device).unbind(1))
    inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
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
        Numbers of boxes, images and labels that differ.

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
    blurred = blur(images, sigma or 0.1 * max(images.shape[-2:]))
    scores = [torch.zeros(0)]
    with torch.no_grad():
        for start in range(0, len(boxes), batch_size):
            part = slice(start, start + batch_size)
            places = image[part].to(images.device)
            logits = classifier(outside_blurred(images[places], blurred[places], boxes[part])).float()
            chances = logits.sigmoid() if multi_label else logits.softmax(dim=1)
            scores.append(chances.gather(1, labels[part].to(chances.device)[:, None])[:, 0].cpu())
    return torch.cat(scores)
