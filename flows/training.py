"""Trainings inside a flow: one at a time, with every core, told epoch by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import Task

from configs.training import Optimisation
from flows.progress import progress
from flows.threads import set_threads
from storage import keys
from storage.adopt_model import adopt_model, model_kin
from storage.checkpoints import CHECKPOINT
from storage.staged import read_sources
from tasks.processes import Fit, Trained, fit_together
from tasks.state import State


def train_alone(state: State, task: Task[..., None], *arguments: Any) -> None:
    """Run one training as a task and wait for it; nothing else computes meanwhile, so it may use every core."""
    set_threads(state.run.config, 1)
    try:
        task.submit(*arguments).result()
    except BaseException:
        # A signal reaches only this thread: without its images the training ends with the batch in hand.
        state.source().close()
        raise
    set_threads(state.run.config, state.network_workers)


def took_over(state: State, folder: Path, splits: Sequence[str]) -> bool:
    """Take a model over that an earlier run trained on the same images, though others have come or gone since.

    Parameters
    ----------
    state
        The run, in which the model's folder has its name.
    folder
        Of the model.
    splits
        Where the images lie that it learns from or is chosen by.
    """
    if state.staged is None:
        return False
    rows, stages = keys.rows_of(state.index, splits), state.run.workspace.root / "stages"
    basis, sources = state.bases[folder.name], read_sources(state.staged)
    return adopt_model(folder, model_kin(stages, folder, basis, state.index.classes, sources, rows))


def fit_told(fit: Fit, state: State, folder: Path, settings: Optimisation, *, step: str, title: str = "") -> Trained:
    """Train with a bar of epochs, continuing from the checkpoint of a model's folder.

    Parameters
    ----------
    fit
        The training itself.
    state
        The run.
    folder
        Of the model; the state after each epoch lies there until it is whole, and survives a kill.
    settings
        How many epochs and processes.
    step, title
        What the bar is called, and what is trained.
    """
    with progress(step, settings.epochs, 0, "epochs") as bar:

        def told(_done: int, _total: int, loss: float) -> None:
            bar.step(f"{title + ', ' if title else ''}loss {loss:.4f}")

        return fit_together(fit, state, folder / CHECKPOINT, told, settings.processes)
