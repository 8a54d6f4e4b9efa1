"""Training class maps and a decoder by RecurSeed, and by EdgePredictMix later on."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.recurseed import Mix, RecurSeed, Spread
from methods.losses.partial_cross_entropy import partial_cross_entropy
from methods.losses.recurseed_losses import activations, reconstruction_loss
from methods.networks.joint_network import Joint, JointNetwork
from methods.training import Mixed, edge_predict_targets, mix, recurseed_target, target_labels
from tasks.correlate import scg_constants
from tasks.engine import Learner, Moment, Terms, step_seed
from tasks.rates import factor_groups

IGNORE = 255
GRID = 2
"""Feature on whose grid maps are refined and compared: C3 of C1 to C5."""
ENCODER, CLASS_HEAD = "segmenter.encoder", "classifier"


class RecurSeedLearner(Learner):
    """Class maps and a decoder that learn from what refinement makes of the class maps, anew in every step.

    The classes alone count until ``settings.start``; from there on the maps and the decoder learn the refined maps;
    from ``settings.mix.start`` on, all three learn from a second batch, too: images pasted over one another.

    Parameters
    ----------
    network
        Class maps and decoder on one encoder, on its device.
    settings
        The training.
    channels_last
        Lay images and weights out pixel by pixel: faster convolutions.

    Notes
    -----
    Maps are correlated on the grid of C3, which the class maps are enlarged to; there they are compared, too. PAMR has
    a finer grid where that one is coarse. For mixing, the refined maps are enlarged to the images. What a mixed image
    does not show any more is not in its maps either.

    Not published and chosen here: the teacher is the network itself as it is, not an average over steps; the mixed
    batch passes the network after the images as they are, with batch statistics of its own.

    References
    ----------
    Jo et al., RecurSeed and EdgePredictMix, 2022. The training code was not released.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> network = JointNetwork(build_classifier("small", 2), width=16)
    >>> learner = RecurSeedLearner(network, RecurSeed(model="recurseed"))
    >>> pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    >>> batch = {"images": pixels / 255, "pixels": pixels, "targets": torch.eye(2)}
    >>> [list(learner(batch, Moment(epoch, 0, 0, 0.0))) for epoch in (0, 5)]
    [['classification'], ['classification', 'segmentation', 'reconstruction']]
    """

    def __init__(self, network: JointNetwork, settings: RecurSeed, *, channels_last: bool = False) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network, self.settings = network.to(memory_format=self.layout), settings
        self.constants = scg_constants(settings.scg or Spread())
        self.levels = levels(network, settings)

    @property
    def trained(self) -> nn.Module:
        """All of it."""
        return self.network

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:
        """The terms of this epoch, times their weights.

        Parameters
        ----------
        tensors
            ``images`` ``[B, 3, H, W]`` as the network takes them, ``pixels`` the same as shown, uint8, and ``targets``
            ``[B, K]``, the classes, 0 or 1. For mixing, two images or more.
        moment
            Its epoch decides which terms there are, its number of steps in all who is mixed with whom.
        """
        images, classes = tensors["images"].contiguous(memory_format=self.layout), tensors["targets"]
        tensors = {**tensors, "images": images}
        early = moment.epoch < self.settings.start
        terms = self._classes_only(images, classes) if early else self._all(tensors, moment)
        if torch.distributed.is_initialized():
            # Processes average the gradients of every parameter and wait for those that never come.
            every = torch.stack([one.sum() for one in self.network.parameters() if one.requires_grad]).sum()
            terms["classification"] = terms["classification"] + 0 * every
        return terms

    def groups(self) -> list[dict[str, Any]]:
        """All parameters alike, or those of the encoder apart from new ones and weights apart from biases."""
        if not self.settings.groups:
            return super().groups()
        return factor_groups(self.network, self.new_parts(), self.settings.optimise.weight_decay)

    def new_parts(self) -> list[str]:
        """Names of the network's modules that have not been trained before.

        All but the encoder, and the classes' convolution where it began as the head of a classifier.
        """
        old = (ENCODER, CLASS_HEAD) if self.network.inherited else (ENCODER,)
        return [name for name, one in self.network.named_modules() if not _has_parts(one) and not _below(name, old)]

    def _classes_only(self, images: Tensor, classes: Tensor) -> Terms:
        """Without the decoder, whose output nobody would look at."""
        maps = self.network.classifier(self.network.segmenter.features(images)[-1])
        return {"classification": self._class_loss(maps.mean(dim=(2, 3)), classes)}

    def _all(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:
        images, pixels, classes, mine = tensors["images"], tensors["pixels"], tensors["targets"], self.settings
        found = self.network(images)
        if not (found.class_maps.isfinite().all() and found.logits.isfinite().all()):
            # Not finite either: the engine then names the step and the images, where refinement would refuse its input.
            return {"classification": found.class_maps.float().sum() + found.logits.float().sum()}
        target = self._target(found, pixels, classes)
        labels = target_labels(target, _size(images), foreground=mine.foreground, background=mine.background)
        terms = self._terms(found, target, labels, classes)
        if mine.mix is not None and moment.epoch >= mine.mix.start:
            mixed = self._mixed(found.logits.detach(), target, tensors, moment, mine.mix)
            again = self._terms(self.network(mixed.images), mixed.maps, mixed.labels, mixed.classes)
            terms |= {f"mix_{name}": one for name, one in again.items()}
        return terms

    def _class_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        return self.settings.classes * F.multilabel_soft_margin_loss(logits.float(), classes.float())

    def _target(self, found: Joint, pixels: Tensor, classes: Tensor) -> Tensor:
        maps = _enlarged(found).detach()
        return recurseed_target(
            maps,
            [found.features[level].detach() for level in self.levels],
            pixels.float() / 255,
            classes,
            scg=self.settings.scg is not None,
            pamr=self.settings.pamr,
            constants=self.constants,
            grid=self._fine(_size(maps)),
        )

    def _fine(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The grid of PAMR: that of the maps, or one of the same form with ``pamr_side``."""
        scale = max(1.0, self.settings.pamr_side / max(grid))
        return round(grid[0] * scale), round(grid[1] * scale)

    def _terms(self, found: Joint, target: Tensor, labels: Tensor, classes: Tensor) -> Terms:
        maps = _enlarged(found)
        reconstruction = reconstruction_loss(activations(maps, classes), F.adaptive_avg_pool2d(target, _size(maps)))
        return {
            "classification": self._class_loss(found.class_logits, classes),
            "segmentation": self.settings.segmentation
            * partial_cross_entropy(found.logits, labels.long(), ignore=IGNORE),
            "reconstruction": self.settings.reconstruction * reconstruction,
        }

    def _mixed(self, logits: Tensor, target: Tensor, tensors: dict[str, Tensor], moment: Moment, mixing: Mix) -> Mixed:
        """Images pasted over one another, with maps as large as they are."""
        images, classes, mine = tensors["images"], tensors["targets"], self.settings
        labels = edge_predict_targets(
            logits,
            tensors["pixels"],
            classes,
            source=mixing.edges,
            pamr=mine.pamr,
            foreground=mine.foreground,
            background=mine.background,
        )
        large = F.interpolate(target, _size(images), mode="bilinear", align_corners=False)
        partners = torch.Generator().manual_seed(step_seed(mine.optimise.seed, moment.total))
        mixed = mix(images, labels, large, classes, generator=partners)
        return mixed._replace(maps=mixed.maps * mixed.classes[:, :, None, None])


def levels(network: JointNetwork, settings: RecurSeed) -> list[int]:
    """Positions of the features that are correlated.

    Raises
    ------
    ValueError
        A stage that the network does not have.
    """
    wanted = settings.scg.layers if settings.scg and settings.scg.layers else network.layers
    for layer in wanted:
        if layer not in network.layers:
            raise ValueError(f"scg.layers: expected some of {', '.join(network.layers)}, saw {layer!r}")
    return [network.layers.index(layer) for layer in wanted]


def _enlarged(found: Joint) -> Tensor:
    """Class maps on the grid that they are refined on."""
    grid = _size(found.features[min(GRID, len(found.features) - 1)])
    return F.interpolate(found.class_maps.float(), grid, mode="bilinear", align_corners=False)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _below(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
