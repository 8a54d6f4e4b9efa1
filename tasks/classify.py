"""Training the image classifier from image-level labels, an epoch at a time, resumable after every epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import Classifier, Training
from methods.losses import class_balance, classification_loss
from methods.networks import ClassifierNetwork
from storage.checkpoints import load_checkpoint, remove_checkpoint, save_checkpoint
from storage.faults import dying_point
from storage.index import ImageIndex
from tasks.augment import augment
from tasks.images import ImageSource, to_input

MARGIN = 1.125
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Batch:
    """Network input and labels of one step."""

    images: Tensor
    targets: Tensor


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


def step_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch: a resumed epoch draws what an undisturbed one would have drawn."""
    return (seed * 1_000_003 + epoch * 7_919 + 1) % (2**63)


class Trainer:
    """Plain supervised training of the parameters that ask for a gradient.

    Parameters
    ----------
    module
        What is trained: the whole network, or its head.
    settings
        Optimiser, schedule, batch size, epochs, seed.
    multi_label
        Which loss.
    balance
        Class weights, or none.
    """

    def __init__(self, module: nn.Module, settings: Training, *, multi_label: bool, balance: Tensor | None) -> None:
        self.module, self.settings, self.multi_label, self.balance = module, settings, multi_label, balance
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimiser: torch.optim.Optimizer
        if settings.optimiser == "sgd":
            self.optimiser = torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
        else:
            self.optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        self.history: list[dict[str, float]] = []

    def rate(self, progress: float) -> float:
        """Learning rate after a fraction of the training."""
        if self.settings.schedule == "constant":
            return self.settings.learning_rate
        return self.settings.learning_rate * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))

    def epoch(self, number: int, batches: Iterator[Batch], steps: int) -> float:
        """Run one epoch; returns the mean loss.

        Raises
        ------
        FloatingPointError
            The loss is not finite.
        """
        self.module.train()
        total = torch.zeros(())
        for step, batch in enumerate(batches):
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate((number + step / steps) / self.settings.epochs)
            logits = self.module(batch.images)
            loss = classification_loss(logits, batch.targets, multi_label=self.multi_label, weights=self.balance)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            total = total + loss.detach().cpu()
        mean = float(total) / steps
        if not torch.isfinite(torch.tensor(mean)):
            raise FloatingPointError(f"epoch {number + 1}: the loss is {mean}; lower classifier.train.learning_rate")
        self.history.append({"epoch": number + 1, "loss": mean})
        return mean

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs; epochs seed themselves, so no random state is kept."""
        return {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict(), "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = list(state["history"])


def train(
    trainer: Trainer,
    batches: Callable[[int], tuple[Iterator[Batch], int]],
    checkpoint: Path | None,
    progress: Progress,
) -> list[dict[str, float]]:
    """Train for the configured number of epochs.

    Parameters
    ----------
    trainer
        What is trained and how.
    batches
        Gives the batches of an epoch and their number.
    checkpoint
        Where the state after each epoch goes; training continues from it where it exists.
    progress
        Told after every epoch: epochs done, epochs in all, loss.

    Returns
    -------
    list of dict
        Loss by epoch.
    """
    state = load_checkpoint(checkpoint) if checkpoint else None
    if state is not None:
        trainer.restore(state)
    for epoch in range(len(trainer.history), trainer.settings.epochs):
        torch.manual_seed(step_seed(trainer.settings.seed, epoch))
        loss = trainer.epoch(epoch, *batches(epoch))
        if checkpoint:
            save_checkpoint(checkpoint, trainer.state())
            dying_point("epoch")
        progress(epoch + 1, trainer.settings.epochs, loss)
    return trainer.history


def image_batches(
    source: ImageSource, config: Classifier, rows: list[int], targets: Tensor, device: torch.device
) -> Callable[[int], tuple[Iterator[Batch], int]]:
    """Batches of augmented images, shuffled anew each epoch; a last batch of one image is left out (batch norm)."""
    settings, size = config.train, config.input_size
    loaded = round(size * MARGIN) if settings.augment else size

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(settings.seed, epoch))
        order = torch.randperm(len(rows), generator=generator)
        full = len(order) - 1 if len(order) % settings.batch_size == 1 and len(order) > 1 else len(order)
        order = order[:full]

        def run() -> Iterator[Batch]:
            groups = source.batches([rows[i] for i in order.tolist()], loaded, settings.batch_size)
            for number, (_, images) in enumerate(groups):
                if settings.augment:
                    images = augment(images, size, generator, vertical=settings.vertical_flip)
                chosen = order[number * settings.batch_size : (number + 1) * settings.batch_size]
                yield Batch(to_input(images, config.normalise, device), targets[chosen].to(device))

        return run(), -(-full // settings.batch_size)

    return batches


def feature_batches(
    features: Tensor, targets: Tensor, settings: Training
) -> Callable[[int], tuple[Iterator[Batch], int]]:
    """Batches of features computed once, shuffled anew each epoch."""

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(settings.seed, epoch))
        parts = torch.split(torch.randperm(len(features), generator=generator), settings.batch_size)
        return (Batch(features[part], targets[part]) for part in parts), len(parts)

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
    if features is None:
        trainer = Trainer(network.model, config.train, multi_label=multi_label, balance=balance)
        history = train(trainer, image_batches(source, config, rows, targets, device), checkpoint, progress)
    else:
        head = network.model.get_submodule(network.head)
        start_from_zero(head)
        trainer = Trainer(head, config.train, multi_label=multi_label, balance=balance)
        history = train(trainer, feature_batches(features.to(device), targets.to(device), config.train), None, progress)
    if not multi_label:
        centre_head(network.model.get_submodule(network.head))
    remove_checkpoint(checkpoint)
    return {"multi_label": multi_label, "history": history, "images": len(rows)}
