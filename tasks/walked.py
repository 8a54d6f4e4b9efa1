"""A finished affinity network: its edges, and the maps of the proposal that taught it, walked up to them."""

from pathlib import Path

import torch
from torch import Tensor

from configs.affinity import Affinity, Walk
from configs.normalise import Normalise
from methods.networks import AffinityNet, ClassifierNetwork
from methods.refinement import random_walk
from storage.index import ImageIndex
from storage.stages import StageFolder
from tasks.affinity import affinity_parts, new_affinity
from tasks.agnostic import AgnosticWork, ShardMaps
from tasks.decoded import ImageMaps, load_parts
from tasks.images import ImageSource
from tasks.refine import PairMaps

SMALL = 1e-5


def load_affinity(
    folder: Path, weights: str, affinity: Affinity, classifier: ClassifierNetwork, device: torch.device
) -> AffinityNet:
    """The finished network in evaluation mode; ``weights`` is the digest that is expected."""
    network = new_affinity(affinity, classifier)
    return load_parts(folder, weights, network, affinity_parts(network), device)


class EdgeMaps(ImageMaps):
    """Edges of images and their mirror images, ``(h, w)`` of a quarter of the input's sides, in 0..1."""

    def __init__(
        self,
        network: AffinityNet,
        source: ImageSource,
        normalise: Normalise,
        size: int,
        batch: int,
        device: torch.device,
    ) -> None:
        super().__init__(source, normalise, size, batch, device)
        self.network = network

    def look(self, images: Tensor) -> Tensor:
        """See :class:`tasks.decoded.ImageMaps`."""
        # No wider border than the network has seen: its group norms look at all of an image.
        return self.network.edges(images, side=self.size)


class WalkedWork(AgnosticWork):
    """Maps of a proposal after a random walk that edges stop, divided by their maximum; pairs are the proposal's.

    Parameters
    ----------
    index
        The image index.
    folder
        Where the walked maps go.
    proposal
        Finished, with a map per image and label.
    edges
        Gives the images' edges.
    walk
        How far.
    """

    def __init__(
        self,
        index: ImageIndex,
        folder: StageFolder,
        proposal: StageFolder,
        edges: ShardMaps,
        walk: Walk,
        shard_images: int,
    ) -> None:
        super().__init__(index, folder, proposal, edges, shard_images)
        self.walk = walk

    def _by_class(self, one: Tensor, known: PairMaps, row: int) -> Tensor:
        height, width = one.shape
        maps = known.maps(row, (height, width))
        # A map that is broken stays so, and spoils no other label of its image.
        whole = maps.flatten(1).isfinite().all(dim=1)
        walk = self.walk
        found = random_walk(maps[whole], one, radius=walk.radius, beta=walk.beta, log2_steps=walk.times)
        walked = torch.full_like(maps, torch.nan)
        walked[whole] = found / (found.amax(dim=(1, 2), keepdim=True) + SMALL)
        return walked
