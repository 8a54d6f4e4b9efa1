"""Segment: train networks on stored masks or labels, and write what they predict as label sets of their own."""

import time
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from configs.recurseed import RecurSeed
from configs.segmentation import Segmenter
from flows.pool import run_work
from flows.training import fit_told, took_over, train_alone
from storage.models import is_saved, weights_digest
from tasks.fit_segmenter import fit_segmenter
from tasks.folders import labels_of, name_predicted, name_segmenter
from tasks.network import save_model
from tasks.predict import PredictWork, load_predictor
from tasks.refine import begin_masks
from tasks.state import State


@flow(name="segment", validate_parameters=False, persist_result=False)
def segment_flow(state: State) -> None:
    """Bring every network that predicts masks, and its label set, up to date."""
    state.done["segment"] = sum(segment(state, training) for training in state.run.config.segmenters)


def segment(state: State, training: Segmenter | RecurSeed) -> int:
    """Train one network and predict its masks, inside a flow; returns how many units of work there were."""
    folder = name_segmenter(state, training)
    done = 0 if is_saved(folder) or took_over(state, folder, training.split) else 1
    if done:
        train_alone(state, make_segmenter, state, training, folder)
    return done + _predict(state, training, folder)


@task(name="segmenter", cache_policy=NO_CACHE, persist_result=False)
def make_segmenter(state: State, training: Segmenter | RecurSeed, folder: Path) -> None:
    """Train a network and commit it; the state after each epoch survives a kill."""
    began = time.monotonic()
    fit = partial(fit_segmenter, training=training, labels=labels_of(state, training))
    trained = fit_told(fit, state, folder, training.optimise, step="segment", title=training.title)
    save_model(folder, trained.weights, {"segmenter": training.settings}, trained.history, began)


def _predict(state: State, training: Segmenter | RecurSeed, model: Path) -> int:
    folder, basis = name_predicted(state, training)
    begin_masks(folder, basis, state.index, state.index_stage)
    if folder.complete:
        return 0
    predictor = load_predictor(state, training, model, weights_digest(model))
    work = PredictWork(state.run.config, predictor, state.source(), state.device, folder)
    return run_work(work, state.network_workers, state.shards)
