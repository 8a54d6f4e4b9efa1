"""A finished decoder: kept as a model of the workspace, loaded once per process, its maps one per image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.decoders import Decoder
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


def load_decoder(
    folder: Path, weights: str, decoder: Decoder, classifier: ClassifierNetwork, device: torch.device
) -> UNet:
    """The finished decoder in evaluation mode; ``weights`` is the digest that is expected."""
    path = folder / WEIGHTS
    if file_digest(path) != weights:
        raise ValueError(f"{path}: expected sha256 {weights[:12]}…; the file changed, run `maskmill verify --repair`")
    network = new_decoder(decoder, classifier)
    trained_parts(network).load_state_dict(load_state(path))
    network.eval().requires_grad_(False).to(device)
    return network


def begin_decoded(folder: StageFolder, basis: dict[str, Any], index: ImageIndex, staged: str, size: int) -> None:
    """Create the soft-map array of a decoder's maps, at the size of its input."""
    shard_images = int(basis["shard_images"])
    shards, room = len(index.shards(shard_images)), pair_capacity(index, shard_images)
    score = ArraySpec(name=SCORE, rows=shards * room, item=(size, size), shard_rows=room, dtype="float16", fill=-1.0)
    folder.begin(basis, shards=shards, classes=index.classes, arrays=[score], index_stage=staged)


class DecodedMaps:
    """Foreground of images by a decoder; see :class:`tasks.agnostic.ShardMaps`."""

    def __init__(
        self, network: UNet, source: ImageSource, normalise: Normalise, size: int, batch: int, device: torch.device
    ) -> None:
        self.network, self.source, self.normalise = network, source, normalise
        self.size, self.batch, self.device, self.fits = size, batch, device, batch

    def __call__(self, shard: int, rows: list[int]) -> list[Tensor]:  # noqa: ARG002
        """Maps ``(size, size)``, probabilities."""
        found: list[Tensor] = []
        for group, images in self.source.batches(rows, self.size, self.batch):
            ready = to_input(images, self.normalise, self.device)
            parts, self.fits = halving(self._foreground(ready), len(group), self.fits)
            found += list(torch.cat(parts))
        return found

    def _foreground(self, images: Tensor) -> Callable[[slice], Tensor]:
        return lambda part: self.network.foreground(images[part]).cpu()
