"""Finished networks of the ``train`` section: loaded from a model of the workspace, maps one per image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from configs.decoders import PixelDecoder
from configs.normalise import Normalise
from methods.activation.halving import halving
from methods.networks import ClassifierNetwork, UNet
from storage.arrays import ArraySpec
from storage.files import file_digest
from storage.index import ImageIndex
from storage.models import WEIGHTS
from storage.stages import StageFolder
from storage.weights import load_state
from tasks.decode import new_decoder, trained_parts
from tasks.images import ImageSource, to_input
from tasks.propose import SCORE, pair_capacity

Network = TypeVar("Network", bound=nn.Module)


def load_decoder(
    folder: Path, weights: str, decoder: PixelDecoder, classifier: ClassifierNetwork, device: torch.device
) -> UNet:
    """The finished decoder in evaluation mode; ``weights`` is the digest that is expected."""
    network = new_decoder(decoder, classifier)
    return load_parts(folder, weights, network, trained_parts(network), device)


def load_parts(folder: Path, weights: str, network: Network, parts: nn.Module, device: torch.device) -> Network:
    """A network in evaluation mode, with what its training kept in ``parts`` of it.

    Raises
    ------
    ValueError
        The file does not have the digest that is expected.
    """
    path = folder / WEIGHTS
    if file_digest(path) != weights:
        raise ValueError(f"{path}: expected sha256 {weights[:12]}…; the file changed, run `maskmill verify --repair`")
    parts.load_state_dict(load_state(path))
    network.eval().requires_grad_(False).to(device)
    return network


def begin_decoded(folder: StageFolder, basis: dict[str, Any], index: ImageIndex, staged: str, size: int) -> None:
    """Create the soft-map array of a decoder's maps, ``size`` places a side."""
    shard_images = int(basis["shard_images"])
    shards, room = len(index.shards(shard_images)), pair_capacity(index, shard_images)
    score = ArraySpec(name=SCORE, rows=shards * room, item=(size, size), shard_rows=room, dtype="float16", fill=-1.0)
    folder.begin(basis, shards=shards, classes=index.classes, arrays=[score], index_stage=staged)


class ImageMaps:
    """One map of each image by a network; see :class:`tasks.agnostic.ShardMaps`."""

    def __init__(self, source: ImageSource, normalise: Normalise, size: int, batch: int, device: torch.device) -> None:
        self.source, self.normalise = source, normalise
        self.size, self.batch, self.device, self.fits = size, batch, device, batch

    def look(self, images: Tensor) -> Tensor:
        """Maps ``(B, h, w)`` of the network's input."""
        raise NotImplementedError

    def __call__(self, shard: int, rows: list[int]) -> list[Tensor]:  # noqa: ARG002
        """Maps ``(h, w)`` of a shard's images; fewer images at a time from now on where memory runs out."""
        found: list[Tensor] = []
        for group, images in self.source.batches(rows, self.size, self.batch):
            ready = to_input(images, self.normalise, self.device)
            parts, self.fits = halving(self._part(ready), len(group), self.fits)
            found += list(torch.cat(parts))
        return found

    def _part(self, images: Tensor) -> Callable[[slice], Tensor]:
        return lambda part: self.look(images[part]).cpu()


class DecodedMaps(ImageMaps):
    """Foreground of images by a decoder, probabilities ``(size, size)``."""

    def __init__(
        self, network: UNet, source: ImageSource, normalise: Normalise, size: int, batch: int, device: torch.device
    ) -> None:
        super().__init__(source, normalise, size, batch, device)
        self.network = network

    def look(self, images: Tensor) -> Tensor:
        """See :class:`ImageMaps`."""
        return self.network.foreground(images)
