"""Affinity networks: edges learned from label maps that a proposal's soft maps are sure of."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from configs.affinity import Affinity
from configs.normalise import Normalise
from methods.losses import affinity_loss, pair_affinities
from methods.networks import AffinityNet, ClassifierNetwork
from methods.networks.affinity_net import grid_side
from methods.training import clean_labels, join_labels, label_maps, pair_labels
from methods.training.affinity_labels import source_grid
from storage.index import IGNORE
from tasks.augment import draw_views
from tasks.engine import Batch, Batches, Learner, Moment, Terms, share, step_seed
from tasks.images import ImageSource, to_input
from tasks.taught import MapTeacher


class AffinityLearner(Learner):
    """Edges of images, on pairs of their pixels.

    Parameters
    ----------
    network
        On a frozen classifier.
    affinity
        How far pairs reach.
    normalise
        How pixels become the network's input.
    channels_last
        Lay images and weights out pixel by pixel: half the time on a CPU.
    """

    def __init__(
        self, network: AffinityNet, affinity: Affinity, normalise: Normalise, *, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        network.to(memory_format=self.layout)
        self.network, self.radius, self.normalise = network, affinity.radius, normalise

    @property
    def trained(self) -> nn.Module:
        """Branches and edge."""
        return affinity_parts(self.network)

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:  # noqa: ARG002
        """Losses of one batch, see :func:`label_batches`; their sum is the published loss."""
        images = to_input(tensors["pixels"], self.normalise, tensors["pixels"].device)
        logits = self.network(images.contiguous(memory_format=self.layout)).float()
        if not torch.isfinite(logits).all():
            # Not finite either: the engine then names the step and the images. A sigmoid would hide infinities.
            return {"logits": logits.sum()}
        affinities = pair_affinities(logits.sigmoid(), self.radius)
        found = affinity_loss(affinities, pair_labels(tensors["labels"], self.radius))
        return {
            "background": found.background / 4,
            "foreground": found.foreground / 4,
            "different": found.different / 2,
        }


def affinity_parts(network: AffinityNet) -> nn.ModuleDict:
    """What an affinity network's weights are: all but the classifier."""
    return nn.ModuleDict({"branches": network.branches, "edge": network.edge})


def new_affinity(affinity: Affinity, classifier: ClassifierNetwork) -> AffinityNet:
    """The network as its training begins; what is drawn at random follows its seed."""
    torch.manual_seed(affinity.optimise.seed)
    return AffinityNet(classifier, affinity.layers)


def check_affinity(affinity: Affinity, classifier: ClassifierNetwork, size: int) -> None:
    """Refuse a network that cannot be built, and images of ``size`` that have no room for its pairs.

    Raises
    ------
    ValueError
        They are; the message says which.
    """
    new_affinity(affinity, classifier)
    source_grid(grid_side(size), grid_side(size), affinity.radius)


class LabelTeacher:
    """Label maps of images: where the maps of all their labels together are sure."""

    def __init__(self, maps: MapTeacher, affinity: Affinity) -> None:
        self.maps, self.rows = maps, maps.rows
        self.bounds, self.clean = (affinity.foreground, affinity.background), affinity.clean == "pamr"

    def labels(self, row: int, pixels: Tensor) -> Tensor:
        """Labels ``(1, S, S)`` uint8 of an image ``(3, S, S)`` uint8: 0 background, 1..K its labels in order, 255."""
        maps = self.maps.every(row, pixels.shape[-1])
        found = torch.stack([label_maps(maps[None], bound)[0] for bound in self.bounds])
        if self.clean:
            found = clean_labels(pixels[None].float() / 255, found[None])[0]
        joined = join_labels(found[0], found[1])[None]
        if (maps.flatten(1).amax(1) == 0).any():
            # What is left over may be the label whose constant map has no place.
            joined[joined == 0] = IGNORE
        return joined


def label_batches(
    source: ImageSource, teacher: LabelTeacher, *, batch_size: int, resize: int, size: int, flip: bool, seed: int
) -> Batches:
    """Batches of crops with their labels, shuffled and drawn anew in each epoch; image and labels turn alike.

    Tensors: ``pixels`` uint8 ``(B, 3, S, S)``, ``labels`` uint8 ``(B, h, w)`` on the grid of the edges.
    """

    def load(row: int) -> tuple[Tensor, Tensor]:
        pixels = source.square(row, resize)
        return pixels, teacher.labels(row, pixels)

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(seed, epoch))
        order = [teacher.rows[k] for k in torch.randperm(len(teacher.rows), generator=generator).tolist()]
        rows, part = share(order, batch_size)

        def run() -> Iterator[Batch]:
            for group, loaded in source.groups(rows, part, load):
                yield Batch(group, _cropped(loaded, size, generator, flip=flip))

        return run(), -(-len(rows) // part)

    return batches


def _cropped(
    loaded: Sequence[tuple[Tensor, Tensor]], size: int, generator: torch.Generator, *, flip: bool
) -> dict[str, Tensor]:
    pixels = torch.stack([image for image, _ in loaded])
    side = (pixels.shape[2], pixels.shape[3])
    views = draw_views(len(pixels), side, size, generator, flip=flip, vertical=False)
    grid = grid_side(size)
    # The pixel in the middle of each place of the grid.
    middle = (2 * torch.arange(grid) + 1) * size // (2 * grid)
    labels = views.crop(torch.stack([known for _, known in loaded]))[:, 0]
    return {"pixels": views.crop(pixels), "labels": labels[:, middle[:, None], middle]}
