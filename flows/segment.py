"""Segment: train networks on stored masks or labels, and write what they predict as label sets of their own."""

import time
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from configs.recurseed import RecurSeed
from configs.segmentation import Segmenter
from flows.pool import run_work
from flows.progress import progress
from flows.threads import set_threads
from storage.checkpoints import CHECKPOINT
from storage.models import is_saved, weights_digest
from tasks.fit_segmenter import fit_segmenter
from tasks.folders import labels_of, name_predicted, name_segmenter
from tasks.network import save_model
from tasks.predict import PredictWork, load_predictor
from tasks.processes import fit_together
from tasks.refine import begin_masks
from tasks.state import State


@flow(name="segment", validate_parameters=False, persist_result=False)
def segment_flow(state: State) -> None:
    """Bring every network that predicts masks, and its label set, up to date."""
    state.done["segment"] = sum(segment(state, training) for training in state.run.config.segmenters)


def segment(state: State, training: Segmenter | RecurSeed) -> int:
    """Train one network and predict its masks, inside a flow; returns how many units of work there were."""
    folder = name_segmenter(state, training)
    trained = 0 if is_saved(folder) else _train(state, training, folder)
    return trained + _predict(state, training, folder)


def _train(state: State, training: Segmenter | RecurSeed, folder: Path) -> int:
    set_threads(state.run.config, 1)
    try:
        make_segmenter.submit(state, training, folder).result()
    except BaseException:
        # A signal reaches only this thread: without its images the training ends with the batch in hand.
        state.source().close()
        raise
    set_threads(state.run.config, state.network_workers)
    return 1


@task(name="segmenter", cache_policy=NO_CACHE, persist_result=False)
def make_segmenter(state: State, training: Segmenter | RecurSeed, folder: Path) -> None:
    """Train a network and commit it; the state after each epoch survives a kill."""
    began = time.monotonic()
    with progress("segment", training.optimise.epochs, 0, "epochs") as bar:

        def told(_done: int, _total: int, loss: float) -> None:
            bar.step(f"{training.title}, loss {loss:.4f}")

        fit = partial(fit_segmenter, training=training, labels=labels_of(state, training))
        trained = fit_together(fit, state, folder / CHECKPOINT, told, training.optimise.processes)
    save_model(folder, trained.weights, {"segmenter": training.settings}, trained.history, began)


def _predict(state: State, training: Segmenter | RecurSeed, model: Path) -> int:
    folder, basis = name_predicted(state, training)
    begin_masks(folder, basis, state.index, state.index_stage)
    if folder.complete:
        return 0
    predictor = load_predictor(state, training, model, weights_digest(model))
    work = PredictWork(state.run.config, predictor, state.source(), state.device, folder)
    return run_work(work, state.network_workers, state.shards)
