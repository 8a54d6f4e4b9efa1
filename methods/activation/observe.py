"""Look at layers in one forward pass that builds no graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from methods.activation.frozen import frozen
from methods.activation.pairs import check_logits, check_request
from methods.activation.taps import tapped

Score = Callable[[Tensor], Tensor]
"""From logits ``[N, K]`` (or whatever the network returns for N images) to scores ``[N, K]``, image by image."""


def identity(logits: Tensor) -> Tensor:
    """The score of every method here by default: the logit itself."""
    return logits


def observe(
    model: nn.Module, images: Tensor, pairs: Tensor, layers: Sequence[str], score: Score = identity
) -> tuple[dict[str, Tensor], Tensor]:
    """Activations of layers and the scores, for methods that need no gradient.

    Parameters
    ----------
    model, images, pairs, layers
        As in :func:`methods.activation.record`.
    score
        What to make of the network's output, whose shape is then free: a pair's class is a column of the scores.

    Returns
    -------
    dict of Tensor, Tensor
        ``[B, C, h, w]`` by layer name, and the scores ``[B, K]``: the logits where there is no other score.

    Raises
    ------
    RecordingError
        As ``record``, less what concerns gradients.

    Examples
    --------
    >>> maps, logits = observe(
    ...     nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.rand(1, 3, 4, 4), torch.tensor([[0, 1]]), ["0"]
    ... )
    >>> maps["0"].shape, logits.shape
    (torch.Size([1, 4, 2, 2]), torch.Size([1, 16]))
    """
    check_request(images, pairs, layers)
    with torch.inference_mode(False), torch.no_grad(), frozen(model):
        images = images.clone() if images.is_inference() else images
        with tapped(model, layers) as taps:
            output = model(images)
        outputs = {name: value.detach() for name, value in taps.outputs().items()}
        return outputs, check_logits(score(output), pairs, len(images))
