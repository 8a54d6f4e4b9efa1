"""Training the image classifier from image-level labels, an epoch at a time, resumable after every epoch."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import Classifier
from configs.training import Training
from methods.losses import class_balance, classification_loss
from methods.networks import ClassifierNetwork
from storage.index import ImageIndex
from storage.keys import rows_of
from tasks.augment import augment
from tasks.engine import Batch, Batches, Engine, Learner, Moment, Progress, Terms, deal, step_seed
from tasks.images import ImageSource, to_input
from tasks.network import new_network
from tasks.processes import Trained
from tasks.puzzle import PuzzleLearner, recipe_groups
from tasks.state import State

MARGIN = 1.125


def is_multi_label(wish: str, index: ImageIndex, rows: list[int]) -> bool:
    """Which of the two losses a data set asks for.

    Raises
    ------
    ValueError
        Cross entropy was asked for and some image does not have exactly one label.
    """
    counts = index.targets[rows].sum(axis=1)
    single = len(index.classes) >= 2 and bool((counts == 1).all())
    if wish == "cross_entropy" and not single:
        raise ValueError(
            "classifier.loss: cross_entropy expects two classes or more and one label per image; saw "
            f"{len(index.classes)} classes and images with {sorted(set(counts.tolist()))} labels; use auto"
        )
    return wish == "soft_margin" or not single


class ClassifierLearner(Learner):
    """A classifier, or its head alone, on images or features and their labels.

    Parameters
    ----------
    module
        What is trained.
    multi_label
        Which loss.
    balance
        Class weights, or none.
    settings
        Say how fast its parts learn; none: all alike.
    new
        Names of its modules that have not been trained before, for that.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        multi_label: bool,
        balance: Tensor | None,
        settings: Training | None = None,
        new: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.module, self.multi_label, self.balance = module, multi_label, balance
        self.settings, self.new = settings or Training(), new

    @property
    def trained(self) -> nn.Module:
        """All of it."""
        return self.module

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:  # noqa: ARG002
        """The classification loss."""
        logits = self.module(tensors["images"]).float()
        loss = classification_loss(logits, tensors["targets"], multi_label=self.multi_label, weights=self.balance)
        return {"classification": loss}

    def groups(self) -> list[dict[str, Any]]:
        """As :func:`tasks.puzzle.recipe_groups` has it."""
        return recipe_groups(self.module, self.new, self.settings)


def image_batches(
    source: ImageSource, config: Classifier, rows: list[int], targets: Tensor, device: torch.device
) -> Batches:
    """Batches of augmented images, shuffled anew each epoch; a last batch of one image is left out (batch norm)."""
    settings, size = config.train, config.input_size
    loaded = round(size * MARGIN) if settings.augment else size

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(settings.seed, epoch))
        places, part, steps = deal(len(rows), settings.batch_size, generator)

        def run() -> Iterator[Batch]:
            groups = source.batches([rows[place] for place in places], loaded, part)
            for number, (group, images) in enumerate(groups):
                if settings.augment:
                    images = augment(images, size, generator, vertical=settings.vertical_flip)
                chosen = places[number * part : (number + 1) * part]
                yield Batch(group, {"images": to_input(images, config.normalise, device), "targets": targets[chosen]})

        return run(), steps

    return batches


def feature_batches(features: Tensor, targets: Tensor, settings: Training, rows: list[int]) -> Batches:
    """Batches of features computed once, shuffled anew each epoch."""

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(settings.seed, epoch))
        parts = torch.split(torch.randperm(len(features), generator=generator), settings.batch_size)
        found = (
            Batch([rows[i] for i in part.tolist()], {"images": features[part], "targets": targets[part]})
            for part in parts
        )
        return found, len(parts)

    return batches


def start_from_zero(head: nn.Module) -> None:
    """Begin a head on fixed features at zero: the problem is convex, and random weights would stay in the maps."""
    for parameter in head.parameters():
        nn.init.zeros_(parameter)


def centre_head(head: nn.Module) -> None:
    """Take the mean over the classes off a linear head's weights.

    Softmax does not see what all classes share, so training leaves it as it happens to be; a class's map does see it.
    """
    if isinstance(head, nn.Linear):
        with torch.no_grad():
            head.weight.sub_(head.weight.mean(dim=0))
            head.bias.sub_(head.bias.mean())


def fit_classifier(
    network: ClassifierNetwork,
    config: Classifier,
    index: ImageIndex,
    rows: list[int],
    source: ImageSource,
    device: torch.device,
    checkpoint: Path,
    features: Tensor | None,
    progress: Progress,
) -> dict[str, Any]:
    """Train a classifier, or its head alone where ``features`` are given; returns the facts worth keeping."""
    multi_label = is_multi_label(config.loss, index, rows)
    targets = torch.from_numpy(index.targets[rows])
    balance = class_balance(targets, multi_label=multi_label).to(device) if config.train.balance else None
    network.model.to(device)
    batches: Batches
    learner: Learner
    learns = partial(ClassifierLearner, multi_label=multi_label, balance=balance, settings=config.train)
    if features is not None:
        # Features are at hand and the problem is convex: done before a checkpoint would pay.
        module, path = network.model.get_submodule(network.head), None
        start_from_zero(module)
        batches = feature_batches(features, targets, config.train, rows)
        learner = learns(module, new=[""])
    else:
        path = checkpoint
        batches = image_batches(source, config, rows, targets, device)
        learner = learns(network.model, new=[network.head])
        if config.train.puzzle is not None:
            learner = PuzzleLearner(network, config.train, config.input_size)
    engine = Engine(learner, config.train, device, where="classifier.train", ids=index.ids)
    history = engine.fit(batches, path, progress)
    if not multi_label:
        centre_head(network.model.get_submodule(network.head))
    return {"multi_label": multi_label, "history": history, "images": len(rows)}


def fit_on_images(state: State, checkpoint: Path, progress: Progress) -> Trained:
    """Train a run's classifier, backbone and all."""
    config = state.run.config
    network = new_network(config.classifier, len(state.index.classes))
    rows = rows_of(state.index, config.classifier.train_split)
    source, device = state.source(), state.device
    facts = fit_classifier(network, config.classifier, state.index, rows, source, device, checkpoint, None, progress)
    return Trained(dict(network.model.state_dict()), facts["history"])
