"""Training segmentation networks on stored masks: the learner, its network as it begins, and its batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.normalise import Normalise
from configs.segmentation import LabelTraining
from methods.losses import partial_cross_entropy
from methods.networks import ClassifierNetwork, build_classifier, keep_stride, load_backbone, new_parts
from storage.labels import LabelStore
from storage.weights import find_weights, load_state
from tasks.augment import draw_views
from tasks.engine import Batch, Batches, Learner, Moment, Terms, deal, step_seed
from tasks.images import ImageSource, to_input
from tasks.rates import factor_groups

IGNORE = 255
LEAST = 1e-8


class SegmentLearner(Learner):
    """A segmentation network on masks; pixels that are 255 teach nothing.

    Parameters
    ----------
    network
        Gives logits ``[B, C + 1, H, W]`` of images ``[B, 3, H, W]``, background first.
    channels_last
        Lay images and weights out pixel by pixel: faster convolutions.
    decay
        Weight decay of parameter groups in which new parts learn faster than the encoder; none: all learn alike.
    """

    def __init__(self, network: nn.Module, *, channels_last: bool = False, decay: float | None = None) -> None:
        super().__init__()
        self.decay = decay
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.layout)

    @property
    def trained(self) -> nn.Module:
        """All of it."""
        return self.network

    def groups(self) -> list[dict[str, Any]]:
        """All parameters alike, or those of the encoder apart from new ones and weights apart from biases."""
        return (
            super().groups() if self.decay is None else factor_groups(self.network, new_parts(self.network), self.decay)
        )

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:  # noqa: ARG002
        """The loss of one batch, see :func:`labelled_batches`."""
        logits = self.network(tensors["images"].contiguous(memory_format=self.layout)).float()
        loss = _loss(logits, tensors)
        if torch.distributed.is_initialized():
            # Processes wait for the gradient of every parameter, and the classifier's own head is unused.
            loss = loss + 0 * torch.stack([one.sum() for one in self.network.parameters() if one.requires_grad]).sum()
        return {"segmentation": loss}


def _loss(logits: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    if not torch.isfinite(logits).all():
        # Not finite either: the engine then names the step and the images, where a loss would refuse its input.
        return logits.sum()
    if "confidence" in tensors:
        return weighted_cross_entropy(logits, tensors["labels"], tensors["confidence"])
    return partial_cross_entropy(logits, tensors["labels"].long(), ignore=IGNORE)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    r"""Cross entropy of the pixels whose label is known, each as heavy as its weight.

    .. math:: \frac{\sum_p w_p \, \text{CE}(z_p, y_p)}{\sum_p w_p}, \qquad y_p \neq 255

    Parameters
    ----------
    logits
        ``[B, C, H, W]`` floating point.
    labels
        ``[B, H, W]``, 255 for unknown.
    weights
        ``[B, H, W]`` uint8 confidences, 255 for 1.

    Examples
    --------
    >>> logits = torch.tensor([[[[0.0, 9.0]], [[0.0, 0.0]]]])
    >>> labels = torch.tensor([[[1, 1]]], dtype=torch.uint8)
    >>> round(weighted_cross_entropy(logits, labels, torch.tensor([[[255, 0]]], dtype=torch.uint8)).item(), 4)
    0.6931
    """
    known = labels != IGNORE
    shares = torch.where(known, weights.float() / 255, 0.0)
    losses = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="none")
    return (losses * shares).sum() / shares.sum().clamp(min=LEAST)


def start_network(training: LabelTraining, classifier: ClassifierNetwork, classes: int) -> ClassifierNetwork:
    """The classifier whose features a segmentation network joins, as its training begins.

    Its weights are a file's, torchvision's, or those of the run's classifier where the backbone is the same; what is
    drawn at random follows torch's seed.
    """
    weights, backbone = find_weights(training.weights), training.backbone or classifier.backbone
    network = build_classifier(backbone, classes, pretrained=weights.torchvision)
    keep_stride(network, training.keep_stride)
    if weights.path is not None:
        load_backbone(network, load_state(weights.path), str(weights.path))
    elif weights.torchvision is None and backbone == classifier.backbone:
        own, state = network.model.state_dict(), classifier.model.state_dict()
        same = {name: one for name, one in state.items() if name in own and own[name].shape == one.shape}
        network.model.load_state_dict(same, strict=False)
    return network


def labelled_rows(store: LabelStore, rows: Sequence[int]) -> list[int]:
    """Those of some rows whose mask has at least one known pixel."""
    wanted, found = set(rows), []
    for row, mask in store:
        if row in wanted and bool((mask != IGNORE).any()):
            found.append(row)
    return found


def labelled_batches(
    source: ImageSource,
    rows: Sequence[int],
    normalise: Normalise,
    *,
    store: LabelStore | None,
    confidence: bool = False,
    batch_size: int,
    resize: int,
    size: int,
    flip: bool,
    vertical: bool,
    seed: int,
) -> Batches:
    """Batches of crops, shuffled and drawn anew in each epoch; image, mask and confidence turn alike.

    Tensors: ``pixels`` uint8 ``(B, 3, S, S)``, ``images`` the same as network input, ``targets`` ``(B, C)``; with a
    ``store`` also ``labels`` uint8 ``(B, S, S)``, and with ``confidence`` that. A last batch of one image is left out:
    batch norms need two.
    """
    names = ([] if store is None else ["label"]) + (["confidence"] if confidence else [])
    targets = torch.from_numpy(source.index.targets)

    def load(row: int) -> tuple[Tensor, list[Tensor]]:
        masks = [_square(store, row, name, resize) for name in names] if store is not None else []
        return source.square(row, resize), masks

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(seed, epoch))
        places, part, steps = deal(len(rows), batch_size, generator)

        def run() -> Iterator[Batch]:
            for group, loaded in source.groups([rows[place] for place in places], part, load):
                pixels = torch.stack([image for image, _ in loaded])
                views = draw_views(len(group), (resize, resize), size, generator, flip=flip, vertical=vertical)
                tensors = {"pixels": views.crop(pixels), "targets": targets[group]}
                tensors["images"] = to_input(tensors["pixels"], normalise, torch.device("cpu"))
                for number, name in enumerate(names):
                    masks = views.crop(torch.stack([found[number] for _, found in loaded])[:, None])
                    tensors["labels" if name == "label" else name] = masks[:, 0]
                yield Batch(group, tensors)

        return run(), steps

    return batches


def _square(store: LabelStore, row: int, name: str, side: int) -> Tensor:
    """An image's mask on a square, every pixel the nearest one of the mask: labels do not mix."""
    mask = torch.from_numpy(store.mask(row, name).copy())[None, None]
    return F.interpolate(mask, (side, side), mode="nearest-exact")[0, 0]
