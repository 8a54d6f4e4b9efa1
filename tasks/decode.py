"""Decoders that learn full-resolution maps from a few sampled pixels: F-CAM on a frozen classifier, DiPS on its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from configs.decoders import BoxSeeds, CrfLoss, DipsDecoder, FcamDecoder, PixelDecoder, Seeds, SizeLoss
from configs.normalise import Normalise
from methods.losses import crf_loss, partial_cross_entropy, size_loss
from methods.networks import ClassifierNetwork, DecoderNetwork, UNet, build_classifier, load_backbone
from methods.proposals import sample_pixels, sample_seeds
from storage.weights import find_weights, load_state
from tasks.engine import Learner, Moment, Terms
from tasks.images import to_input

Draw = Callable[[dict[str, Tensor], torch.Generator], Tensor]


class DecoderLearner(Learner):
    """A decoder on sampled pixels, with the terms that need no label.

    Parameters
    ----------
    network
        Gives two logits a pixel, background and foreground.
    decoder
        Seeds and weights of the losses.
    normalise
        How pixels become the network's input.
    classifier
        Frozen, for the loss on the image under the foreground map; none: without that loss.
    multi_label
        Whether the classifier's classes exclude each other.
    channels_last
        Lay images and weights out pixel by pixel: half the time on a CPU.
    """

    def __init__(
        self,
        network: UNet,
        decoder: PixelDecoder,
        normalise: Normalise,
        classifier: nn.Module | None = None,
        *,
        multi_label: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        network.to(memory_format=self.layout)
        self.network, self.decoder, self.normalise, self.multi_label = network, decoder, normalise, multi_label
        # Outside of the modules' list: it neither learns nor belongs to what is kept.
        self._classifier = [classifier]

    @property
    def trained(self) -> nn.Module:
        """Decoder and head; the encoder too where it learns."""
        return trained_parts(self.network)

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:
        """Losses of one batch, see :func:`tasks.taught.lesson_batches`."""
        images = self.input(tensors)
        return self.terms(self.network(images).float(), images, tensors, moment)

    def input(self, tensors: dict[str, Tensor]) -> Tensor:
        """The network's input."""
        images = to_input(tensors["pixels"], self.normalise, tensors["pixels"].device)
        return images.contiguous(memory_format=self.layout)

    def terms(self, logits: Tensor, images: Tensor, tensors: dict[str, Tensor], moment: Moment) -> Terms:
        """Losses of logits ``[B, 2, H, W]``."""
        if not torch.isfinite(logits).all():
            # Not finite either: the engine then names the step and the images, where a loss would refuse its input.
            return {"logits": logits.sum()}
        generator = torch.Generator().manual_seed(seed_of(self.decoder.optimise.seed, moment))
        terms = {"seeds": self.decoder.seeds.weight * partial_cross_entropy(logits, self._seeds(tensors, generator))}
        crf, size = self.decoder.crf, self.decoder.size
        if crf.weight:
            terms["crf"] = self._crf(crf, tensors["pixels"].float(), logits)
        if size.weight:
            terms["size"] = size_loss(logits, barrier(size, moment), weight=size.weight)
        classifier = self._classifier[0]
        if classifier is not None and isinstance(self.decoder, DipsDecoder) and self.decoder.classifier:
            terms["classifier"] = self.decoder.classifier * self._response(classifier, images, logits, tensors)
        return terms

    def _seeds(self, tensors: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        seeds = self.decoder.seeds
        if isinstance(seeds, Seeds):
            return sample_seeds(
                tensors["maps"],
                foreground=seeds.foreground,
                background=seeds.background,
                background_share=seeds.background_share,
                erosion=seeds.erosion,
                dilation=seeds.dilation,
                generator=generator,
            )
        return _sample_in_boxes(tensors, seeds, generator)

    @staticmethod
    def _crf(crf: CrfLoss, pixels: Tensor, logits: Tensor) -> Tensor:
        options: dict[str, Any] = crf.model_dump(exclude={"weight"})
        return crf_loss(pixels, logits.softmax(dim=1), weight=crf.weight, **options)

    def _response(self, classifier: nn.Module, images: Tensor, logits: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """How badly the frozen classifier knows the image under the foreground map; the gradient reaches the map."""
        answer = classifier(images * logits.softmax(dim=1)[:, 1:]).float()
        labels = tensors["labels"]
        if self.multi_label:
            return softplus(-answer.gather(1, labels[:, None])).mean()
        return cross_entropy(answer, labels)


def _sample_in_boxes(tensors: dict[str, Tensor], seeds: BoxSeeds, generator: torch.Generator) -> Tensor:
    return sample_pixels(
        tensors["maps"],
        tensors["boxes"],
        foreground=seeds.foreground,
        background=seeds.background,
        foreground_share=seeds.foreground_share,
        background_share=seeds.background_share,
        dilation=seeds.dilation,
        generator=generator,
    )


def barrier(size: SizeLoss, moment: Moment) -> float:
    """The log-barrier's t at a moment of the training."""
    steps = moment.epoch if size.every == "epoch" else moment.total
    return min(size.end, size.start * size.growth**steps)


def seed_of(seed: int, moment: Moment) -> int:
    """Seed of a step's pixels: the same after a restart, and in every process its own."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    return (seed * 1_000_003 + moment.total * 7_919 + rank * 104_729 + 17) % (2**63)


def trained_parts(network: UNet) -> nn.ModuleDict:
    """What a decoder's weights are: decoder and head, and the encoder where it learns."""
    parts: dict[str, nn.Module] = {"decoder": network.decoder, "head": network.head}
    return nn.ModuleDict(parts if network.frozen else {"encoder": network.encoder, **parts})


def new_decoder(decoder: PixelDecoder, classifier: ClassifierNetwork) -> UNet:
    """The network of a decoder as its training begins; what is drawn at random follows its seed."""
    torch.manual_seed(decoder.optimise.seed)
    if isinstance(decoder, FcamDecoder):
        return DecoderNetwork(classifier, decoder.layers, widths=decoder.widths)
    weights = find_weights(decoder.weights)
    encoder = build_classifier(decoder.encoder, 2, pretrained=weights.torchvision)
    if weights.path is not None:
        load_backbone(encoder, load_state(weights.path), str(weights.path))
    elif weights.torchvision is None and decoder.encoder == classifier.backbone:
        head, state = classifier.head, classifier.model.state_dict()
        same = {name: one for name, one in state.items() if not name.startswith(head)}
        encoder.model.load_state_dict(same, strict=False)
    network = UNet(encoder, widths=decoder.widths)
    # Not looked at: a parameter without a gradient would hold up processes that average them.
    encoder.model.get_submodule(encoder.head).requires_grad_(False)
    return network
