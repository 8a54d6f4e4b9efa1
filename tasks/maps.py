"""Maps of a run's proposals for one batch: which share a recording, which need passes of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.proposals import (
    ClassMapProposal,
    ClassProposal,
    FullGradProposal,
    GradientProposal,
    MultiScaleProposal,
    PerturbationProposal,
    SampledProposal,
    SmoothProposal,
)
from methods.activation import (
    Recipe,
    Record,
    ablation_cam,
    class_activation_map,
    full_grad,
    fuse,
    is_cam,
    multi_scale,
    record,
    score_cam,
    smooth_grad_cam_plus_plus,
    smooth_noises,
    soft_maps,
    ss_cam,
)
from methods.networks import ClassifierNetwork, ClassMapError, class_maps, resolve_layers

LAST_STAGE = "S5"
COARSE = 4
Own = FullGradProposal | SmoothProposal | PerturbationProposal | SampledProposal


def layers_of(network: ClassifierNetwork, proposal: ClassProposal) -> list[str]:
    """Module names of the layers that a proposal looks at; none where it looks at all of them."""
    if isinstance(proposal, FullGradProposal):
        return []
    if isinstance(proposal, ClassMapProposal | MultiScaleProposal):
        return resolve_layers(network, [LAST_STAGE])
    return resolve_layers(network, proposal.layers)


def map_grid(network: ClassifierNetwork, proposal: ClassProposal, images: Tensor) -> tuple[int, int]:
    """Size of a proposal's maps for images like these: that of its largest layer, or the image's own.

    Maps of several scales have a quarter of the image's sides, rounded up, as published: the grid of boundaries and of
    random walks.

    Raises
    ------
    ValueError
        A layer the network does not have, or CAM on a network whose head is not linear on the mean of its last stage.
    """
    layers = layers_of(network, proposal)
    if not layers:
        return images.shape[2], images.shape[3]
    if isinstance(proposal, ClassMapProposal | MultiScaleProposal):
        _require_pooled_head(network, images[:1], proposal)
    if isinstance(proposal, MultiScaleProposal):
        return -(-images.shape[2] // COARSE), -(-images.shape[3] // COARSE)
    pairs = torch.tensor([[0, 0]])
    seen = record(network.model, images[:1], pairs, layers, allow_zero_gradients=True).activations
    height, width = max((tuple(a.shape[-2:]) for a in seen.values()), key=lambda size: size[0] * size[1])
    return height, width


def _require_pooled_head(network: ClassifierNetwork, images: Tensor, proposal: ClassProposal) -> None:
    try:
        with torch.no_grad():
            class_maps(network, images)
    except ClassMapError as error:
        raise ValueError(f"proposals: {proposal.method}: {error}, or grad_cam") from error


@dataclass(frozen=True)
class MapMaker:
    """Makes the maps of several proposals.

    ``compiled`` is as in :func:`methods.activation.soft_maps`; ``also`` are layers that others want of the recording.
    """

    network: ClassifierNetwork
    compiled: bool = False
    also: tuple[str, ...] = ()

    def __call__(
        self, images: Tensor, pairs: Tensor, proposals: Sequence[ClassProposal]
    ) -> tuple[Record, list[Tensor]]:
        """The recording of the images, and the maps ``[P, h, w]`` float32 of each proposal; none without pairs.

        Every gradient CAM and CAM comes from one recording; each other method pays for its own passes.
        """
        shared = [one for one in proposals if isinstance(one, GradientProposal | ClassMapProposal)]
        layers = sorted({layer for one in shared for layer in layers_of(self.network, one)} | {*self.also})
        # A gradient that is zero everywhere says something about the image (a constant map): it is no fault here.
        seen = record(
            self.network.model,
            images,
            pairs,
            layers or layers_of(self.network, ClassMapProposal(method="cam")),
            allow_zero_gradients=True,
        )
        if not len(pairs):
            return seen, []
        recipes = {one.title: self._recipe(one) for one in shared if isinstance(one, GradientProposal)}
        made = dict(zip(recipes, soft_maps(seen, list(recipes.values()), compiled=self.compiled), strict=True))
        maps = []
        for one in proposals:
            match one:
                case GradientProposal():
                    maps.append(made[one.title])
                case ClassMapProposal():
                    maps.append(self._class_maps(one, seen))
                case MultiScaleProposal():
                    maps.append(self._multi_scale(one, images, pairs))
                case _:
                    maps.append(self._own(one, images, pairs))
        return seen, [one.to(torch.float32) for one in maps]

    def _recipe(self, one: GradientProposal) -> Recipe:
        layers = tuple(layers_of(self.network, one))
        return Recipe(one.method, layers, one.truncation, one.population, one.fuse)

    def _class_maps(self, one: ClassMapProposal, seen: Record) -> Tensor:
        head = self.network.model.get_submodule(self.network.head)
        if not isinstance(head, nn.Linear):
            raise TypeError(f"expected a linear head in {self.network.backbone}, found {type(head).__name__}")
        activations, _ = seen.paired(layers_of(self.network, one)[0])
        weights = head.weight.detach()[seen.pairs[:, 1].to(head.weight.device)]
        return class_activation_map(activations, weights, rectify=one.rectify)

    def _multi_scale(self, one: MultiScaleProposal, images: Tensor, pairs: Tensor) -> Tensor:
        rows, classes = pairs.to(images.device).unbind(dim=1)
        places = (rows[:, None] == rows).tril(-1).sum(dim=1)
        # An image's own classes first, then any: maps of all are too many where there are a thousand.
        wanted = classes.new_zeros(len(images), int(places.max()) + 1).index_put((rows, places), classes)

        def views(scaled: Tensor) -> Tensor:
            with torch.no_grad():
                maps = class_maps(self.network, scaled.to(images.dtype))[0].float()
            own = wanted.repeat(len(scaled) // len(images), 1)[:, :, None, None]
            maps = maps.gather(1, own.expand(-1, -1, *maps.shape[2:]))
            return maps if one.rectify else torch.cat([maps, -maps], dim=1)

        found = multi_scale(images.float(), views, scales=one.scales, flip=one.flip).coarse
        if not one.rectify:
            # Sums are of positive values only: what is negative was summed apart.
            positive, negative = found.chunk(2, dim=1)
            found = positive - negative
        return found[rows, places]

    def _own(self, one: Own, images: Tensor, pairs: Tensor) -> Tensor:
        if isinstance(one, FullGradProposal):
            return full_grad(self.network.model, images, pairs, one.truncation)
        maps = [self._layer(one, images, pairs, layer) for layer in layers_of(self.network, one)]
        if len(maps) == 1 and one.fuse == "sum":
            return maps[0]
        height, width = max((tuple(m.shape[-2:]) for m in maps), key=lambda size: size[0] * size[1])
        return fuse(maps, (height, width), one.fuse)

    def _layer(
        self, one: SmoothProposal | PerturbationProposal | SampledProposal, images: Tensor, pairs: Tensor, layer: str
    ) -> Tensor:
        model, batch = self.network.model, max(16, len(images))
        match one.method:
            case "smooth_grad_cam_plus_plus":
                noises = smooth_noises(images, one.samples, one.sigma, one.seed)
                return smooth_grad_cam_plus_plus(model, images, pairs, layer, noises, allow_zero_gradients=True)
            case "score_cam":
                return score_cam(model, images, pairs, layer, max_maps=one.max_maps, batch=batch)
            case "ablation_cam":
                return ablation_cam(model, images, pairs, layer, max_maps=one.max_maps, batch=batch)
            case "ss_cam":
                samples = one.samples or 35
                return ss_cam(
                    model, images, pairs, layer, samples=samples, seed=one.seed, max_maps=one.max_maps, batch=batch
                )
            case "is_cam":
                return is_cam(
                    model, images, pairs, layer, samples=one.samples or 10, max_maps=one.max_maps, batch=batch
                )
