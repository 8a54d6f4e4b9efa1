"""A network that finds edges between classes, on the features of a classifier."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.networks.encoder import Encoder
from methods.networks.network import ClassifierNetwork

STRIDE = 4
WIDTH = 32
GROUPS = 4
MULTIPLE = 32


class AffinityNet(nn.Module):
    """Edges at a quarter of the resolution, of features of all stages.

    Every stage has a branch: 1 x 1 convolution to 32 channels, group norm of 4 groups, bilinear resizing to a quarter
    of the image, ReLU. One 1 x 1 convolution of all of them makes the edge. Built in evaluation mode, as classifiers
    are.

    Parameters
    ----------
    network
        Classifier whose model becomes the encoder; it is not copied. Its own head is unused and keeps its values.
    layers
        Stages or module names from fine to coarse; by default all stages, S1 to S5.
    frozen
        The classifier stays as it is and only the branches learn, as published.

    Raises
    ------
    ValueError
        An unknown layer, no layer, or one twice.
    EncoderError
        A layer that does not return one map, or a coarser one before a finer.

    References
    ----------
    Ahn et al., Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations, CVPR 2019: the branch of
    class boundaries.

    Notes
    -----
    The published network has a ResNet50 of stride 16: :func:`~methods.networks.stride.keep_stride` of S5.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> AffinityNet(build_classifier("small", 3))(torch.zeros(2, 3, 45, 64)).shape
    torch.Size([2, 1, 12, 16])
    """

    def __init__(self, network: ClassifierNetwork, layers: Sequence[str] | None = None, *, frozen: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(network, tuple(network.stages) if layers is None else layers, frozen=frozen)
        self.branches = nn.ModuleList(map(_branch, self.encoder.channels[1:]))
        self.edge = nn.Conv2d(WIDTH * len(self.branches), 1, kernel_size=1)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of edges.

        Parameters
        ----------
        images
            ``[B, 3, H, W]`` as the classifier takes them, at least 32 pixels a side.

        Returns
        -------
        Tensor
            ``[B, 1, ceil(H / 4), ceil(W / 4)]``. The sigmoid is what
            :func:`~methods.losses.affinity_loss.pair_affinities` takes.

        Raises
        ------
        ValueError
            Another shape, or images that are not finite.
        TypeError
            Images that are not floating point.
        """
        _, *features = self.encoder(images)
        size = [grid_side(side) for side in images.shape[2:]]
        found = [
            F.interpolate(branch(feature), size=size, mode="bilinear", align_corners=False).relu()
            for branch, feature in zip(self.branches, features, strict=True)
        ]
        logits: Tensor = self.edge(torch.cat(found, dim=1))
        return logits

    def edges(self, images: Tensor, *, side: int = 512) -> Tensor:
        """Edges of images and of their mirror images, averaged as logits; without a graph.

        Parameters
        ----------
        images
            ``[B, 3, H, W]`` as the classifier takes them.
        side
            Images are padded with 0, to the right and below, to this height and width; larger ones to the next
            multiple of 32, so that the grid of the mirror image fits.

        Returns
        -------
        Tensor
            ``[B, ceil(H / 4), ceil(W / 4)]`` in 0..1, at least float32: for
            :func:`~methods.refinement.random_walk.random_walk`, image by image.

        Raises
        ------
        ValueError
            The network is in training mode, ``side`` below 1, another shape, or images that are not finite.
        TypeError
            Images that are not floating point.

        Examples
        --------
        >>> from methods.networks import build_classifier
        >>> AffinityNet(build_classifier("small", 3)).edges(torch.zeros(2, 3, 45, 30), side=64).shape
        torch.Size([2, 12, 8])
        """
        if self.training:
            raise ValueError("expected the network in evaluation mode: call eval() first")
        if side < 1 or images.ndim != 4:
            raise ValueError(f"expected images [B, 3, H, W] and side >= 1, got {tuple(images.shape)} and side={side}")
        height, width = images.shape[2:]
        padded = F.pad(images, (0, _missing(width, side), 0, _missing(height, side)))
        with torch.no_grad():
            logits: Tensor = (self(padded) + self(padded.flip(-1)).flip(-1)) / 2
        logits = logits[:, 0, : grid_side(height), : grid_side(width)]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()

    def learnable(self) -> Iterator[nn.Parameter]:
        """Parameters that an optimiser should get."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)


def grid_side(pixels: int) -> int:
    """Side of the grid of edges of an image: a quarter, rounded up.

    Examples
    --------
    >>> [grid_side(pixels) for pixels in (1, 4, 5, 512)]
    [1, 1, 2, 128]
    """
    return -(-pixels // STRIDE)


def _branch(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, WIDTH, kernel_size=1, bias=False), nn.GroupNorm(GROUPS, WIDTH))


def _missing(pixels: int, side: int) -> int:
    wanted = max(pixels, side)
    return wanted + -wanted % MULTIPLE - pixels
