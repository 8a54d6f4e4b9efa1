"""DINO's projection head: from an image token to answers that student and teacher compare.

It is thrown away after training. The bottleneck of unit length and the last layer's rows of unit length make every
answer a cosine, in -1..1: no image and no answer can win by sheer size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Three layers with GELU between them, a normalised bottleneck, and cosines to ``outputs`` directions.

    Parameters
    ----------
    inputs
        Width of the token.
    outputs
        Number of answers K.
    hidden
        Width of the two inner layers.
    bottleneck
        Width before the last layer.

    Raises
    ------
    ValueError
        A width below 1.

    References
    ----------
    Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021, appendix C.

    Examples
    --------
    >>> head = ProjectionHead(8, 32, hidden=16, bottleneck=4)
    >>> head(torch.randn(2, 5, 8)).shape, bool(head(torch.randn(5, 8)).abs().max() <= 1)
    (torch.Size([2, 5, 32]), True)
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        if min(inputs, outputs, hidden, bottleneck) < 1:
            raise ValueError(
                f"expected widths of 1 or more, got inputs={inputs}, outputs={outputs}, hidden={hidden}, "
                f"bottleneck={bottleneck}"
            )
        layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)]
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.last = nn.Parameter(F.normalize(torch.randn(outputs, bottleneck), dim=1))
        """``[K, bottleneck]``; only the rows' directions count (weight normalisation with a length of 1)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosines ``[..., K]`` of tokens ``[..., inputs]``."""
        # Half precision loses small lengths: the two norms are taken in full.
        squeezed = F.normalize(self.layers(tokens).float(), dim=-1)
        return F.linear(squeezed, F.normalize(self.last, dim=1))
