"""The one training loop of the project: steps, validation, the best weights, and a checkpoint after every epoch.

Every epoch seeds itself, so that a training killed at any moment and begun again from its last checkpoint ends with the
weights of one that was left alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.training import Optimisation
from storage.checkpoints import load_checkpoint, save_checkpoint
from storage.faults import dying_point
from tasks.rates import rate_factor
from tasks.turns import CPU, turn

Terms = dict[str, Tensor]
History = list[dict[str, float]]
Batches = Callable[[int], tuple[Iterator["Batch"], int]]
"""From the number of an epoch to its batches and how many there are."""
Validate = Callable[[], dict[str, float]]
Progress = Callable[[int, int, float], None]
"""Told after every epoch: epochs done, epochs in all, mean loss."""


class TrainingError(FloatingPointError):
    """A training that cannot go on; the last checkpoint is kept."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one step by name, and the index rows they come from."""

    rows: list[int]
    tensors: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(self.rows, {name: one.to(device, non_blocking=True) for name, one in self.tensors.items()})


@dataclass(frozen=True)
class Moment:
    """Where a training is: epoch, step in it and steps in all, each from 0, and the fraction of the whole."""

    epoch: int
    step: int
    total: int
    progress: float


class Learner(nn.Module):
    """What is trained and how its loss comes about; called with tensors by name and a :class:`Moment`.

    A module, so that torch's DistributedDataParallel can wrap it.
    """

    @property
    def trained(self) -> nn.Module:
        """The part that learns: what checkpoints keep."""
        raise NotImplementedError

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:
        """Terms of the loss by name, each a scalar; their sum is minimised."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups; ``factor`` multiplies the learning rate, ``weight_decay`` replaces the configured one."""
        return [{"params": [one for one in self.trained.parameters() if one.requires_grad]}]

    def about_to_step(self, optimiser: torch.optim.Optimizer, moment: Moment) -> None:
        """Called with gradients at hand, before every step of the optimiser: to clip them or to change its settings."""

    def stepped(self, moment: Moment) -> None:
        """Called after every step of the optimiser."""


class Engine:
    """A training of one learner.

    Parameters
    ----------
    learner
        On its device.
    settings
        Optimiser, schedule, epochs, seed.
    device
        Where batches go.
    where
        The section of the configuration, for messages.
    ids
        Image ids by index row, for messages.
    validate
        Numbers of an epoch's weights, computed in evaluation mode; none: the last weights are kept.
    select
        Which of those is to be large.
    """

    def __init__(
        self,
        learner: Learner,
        settings: Optimisation,
        device: torch.device,
        *,
        where: str,
        ids: Sequence[str],
        validate: Validate | None = None,
        select: str = "",
    ) -> None:
        self.learner, self.settings, self.device = learner, settings, device
        self.where, self.ids, self.validate, self.select = where, ids, validate, select
        self.optimiser = make_optimiser(learner, settings)
        self.history: History = []
        self.best: dict[str, Any] | None = None

    def fit(self, batches: Batches, checkpoint: Path | None, progress: Progress) -> History:
        """Train, continuing from a checkpoint where there is one; the learner ends with the best weights.

        Raises
        ------
        TrainingError
            The loss is not finite.
        """
        state = load_checkpoint(checkpoint) if checkpoint else None
        if state is not None:
            self.restore(state)
        called = _distributed(self.learner)
        while len(self.history) < self.settings.epochs and not self._gave_up():
            epoch = len(self.history)
            torch.manual_seed(step_seed(self.settings.seed, epoch))
            with self._turn():
                terms = self._epoch(called, epoch, *batches(epoch))
                self.history.append({"epoch": epoch + 1, **terms, **self._judge(epoch)})
            if checkpoint and _rank() == 0:
                save_checkpoint(checkpoint, self.state())
                dying_point("epoch")
            progress(epoch + 1, self.settings.epochs, terms["loss"])
        if self.best is not None:
            self.learner.trained.load_state_dict(self.best["module"])
        return self.history

    def _epoch(self, called: nn.Module, epoch: int, batches: Iterator[Batch], steps: int) -> dict[str, float]:
        self.learner.train()
        sums: dict[str, Tensor] = {}
        for step, batch in enumerate(batches):
            progress = (epoch + step / steps) / self.settings.epochs
            moment = Moment(epoch, step, epoch * steps + step, progress)
            self._set_rates(moment)
            with self._mixed():
                terms = called(batch.to(self.device).tensors, moment)
            loss = torch.stack([one.float() for one in terms.values()]).sum()
            if not torch.isfinite(loss):
                raise self._diverged(epoch, step, batch, terms)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.learner.about_to_step(self.optimiser, moment)
            self.optimiser.step()
            self.learner.stepped(moment)
            found = {"loss": loss, **terms} if len(terms) > 1 else {"loss": loss}
            sums = {name: sums.get(name, torch.zeros(())) + one.detach().float().cpu() for name, one in found.items()}
        return {name: float(one) / steps for name, one in sums.items()}

    def _turn(self) -> AbstractContextManager[None]:
        # Processes of one training wait for one another: two trainings, each with the turn on one of two GPUs, would
        # for ever.
        return turn(CPU if torch.distributed.is_initialized() else self.device)

    def _mixed(self) -> AbstractContextManager[Any]:
        half = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def _set_rates(self, moment: Moment) -> None:
        factor = rate_factor(self.settings, moment.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * group.get("factor", 1.0) * factor

    def _diverged(self, epoch: int, step: int, batch: Batch, terms: Terms) -> TrainingError:
        values = ", ".join(f"{name} {float(one.detach()):g}" for name, one in terms.items())
        images = ", ".join(self.ids[row] for row in batch.rows[:8]) + (", …" if len(batch.rows) > 8 else "")
        return TrainingError(
            f"epoch {epoch + 1}, step {step + 1}: expected a finite loss, saw {values} on the images {images}; lower "
            f"{self.where}.learning_rate or look at these images; the checkpoint of the epoch before is kept"
        )

    def _judge(self, epoch: int) -> dict[str, float]:
        """Numbers of the weights as they are now; the best so far are remembered."""
        if self.validate is None:
            return {}
        self.learner.eval()
        found = _shared(self.validate() if _rank() == 0 else {})
        value = found[self.select]
        if self.best is None or math.isnan(self.best["value"]) or value > self.best["value"]:
            module = {name: one.detach().cpu().clone() for name, one in self.learner.trained.state_dict().items()}
            self.best = {"epoch": epoch + 1, "value": value, "module": module}
        return found

    def _gave_up(self) -> bool:
        if self.best is None or self.settings.patience is None:
            return False
        return len(self.history) - int(self.best["epoch"]) >= self.settings.patience

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs; epochs seed themselves, so no random state is kept."""
        return {
            "module": self.learner.trained.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.learner.trained.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history, self.best = list(state["history"]), state["best"]


def step_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch: a resumed epoch draws what an undisturbed one would have drawn."""
    return (seed * 1_000_003 + epoch * 7_919 + 1) % (2**63)


def share(order: list[int], batch_size: int) -> tuple[list[int], int]:
    """Of a shuffled list, what this process works on, and its share of a batch: as many steps in every process.

    Examples
    --------
    >>> share([3, 1, 2], 32)
    ([3, 1, 2], 32)
    """
    if not torch.distributed.is_initialized():
        return order, batch_size
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    whole = len(order) // world * world
    return order[rank:whole:world], max(1, batch_size // world)


def deal(count: int, batch_size: int, generator: torch.Generator) -> tuple[list[int], int, int]:
    """An epoch's order for this process: shuffled places of a list, how many make a step, and how many steps there are.

    A last step of one image is left out: batch norms need two.

    Examples
    --------
    >>> places, images, steps = deal(5, 2, torch.Generator().manual_seed(0))
    >>> len(places), images, steps
    (4, 2, 2)
    """
    places, part = share(torch.randperm(count, generator=generator).tolist(), batch_size)
    steps = -(-len(places) // part)
    if len(places) % part == 1 and steps > 1:
        steps -= 1
        places = places[: steps * part]
    return places, part, steps


def make_optimiser(learner: Learner, settings: Optimisation) -> torch.optim.Optimizer:
    """The configured optimiser of a learner's parameter groups."""
    groups, rate, decay = learner.groups(), settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _shared(found: dict[str, float]) -> dict[str, float]:
    """What the first process found, in all of them: they must end at the same epoch."""
    if not torch.distributed.is_initialized():
        return found
    box = [found]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def _distributed(learner: Learner) -> nn.Module:
    """The learner, or what averages its gradients over processes where there are several."""
    if not torch.distributed.is_initialized():
        return learner
    return nn.parallel.DistributedDataParallel(learner)
