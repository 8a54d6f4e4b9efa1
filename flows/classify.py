"""Classify: train the classifier, or take a trained one, and keep it in the workspace."""

import time
from pathlib import Path
from typing import Any

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.pool import run_work, thread_runner
from flows.progress import progress
from flows.training import fit_told, train_alone
from methods.networks import ClassifierNetwork
from storage import keys
from storage.checkpoints import CHECKPOINT
from storage.models import is_saved
from storage.stages import FACTS
from tasks.classify import fit_classifier, fit_on_images, is_multi_label
from tasks.features import FeatureWork
from tasks.folders import name_classifier
from tasks.network import new_network, save_network
from tasks.state import State


@flow(name="classify", validate_parameters=False, persist_result=False)
def classify_flow(state: State) -> None:
    """Make sure that the run's classifier is there."""
    folder = name_classifier(state)
    if is_saved(folder):
        state.done["classify"] = 0
        return
    train_alone(state, make_classifier, state, folder)
    state.done["classify"] = 1


@task(name="classifier", cache_policy=NO_CACHE, persist_result=False)
def make_classifier(state: State, folder: Path) -> None:
    """Train (or copy) the classifier and commit it; the state after each epoch survives a kill."""
    began = time.monotonic()
    config = state.run.config.classifier
    network = new_network(config, len(state.index.classes))
    rows = keys.training_rows(state.run.config, state.index)
    facts: dict[str, Any] = {
        "backbone": config.backbone,
        "head_kind": config.head,
        "keep_stride": config.keep_stride,
        "classes": list(state.index.classes),
        "input_size": config.input_size,
        "normalise": config.normalise.model_dump(mode="json"),
    }
    if config.trained is not None:
        everything = [row for row in range(len(state.index)) if state.index.ok[row]]
        facts |= {
            "multi_label": is_multi_label(config.loss, state.index, everything),
            "trained": str(config.trained.name),
        }
    else:
        facts |= train_classifier(state, network, rows, folder)
    history = facts.pop("history", [])
    save_network(folder, network, facts, history, began)


def train_classifier(state: State, network: ClassifierNetwork, rows: list[int], folder: Path) -> dict[str, Any]:
    """Train on the rows of the training splits.

    Raises
    ------
    ValueError
        No image lies in the training splits.
    """
    config = state.run.config.classifier
    if not rows:
        seen = ", ".join(sorted(set(state.index.splits)))
        raise ValueError(f"classifier.train_split: expected images in {config.train_split}, the data set has {seen}")
    if not config.frozen:
        trained = fit_told(fit_on_images, state, folder, config.train, step="classify")
        network.model.load_state_dict(trained.weights)
        multi_label = is_multi_label(config.loss, state.index, rows)
        return {"multi_label": multi_label, "history": trained.history, "images": len(rows)}
    rows, features = frozen_features(state, network, rows)
    with progress("classify", config.train.epochs, 0, "epochs") as bar:

        def told(_done: int, _total: int, loss: float) -> None:
            bar.step(f"loss {loss:.4f}")

        source, device, path = state.source(), state.device, folder / CHECKPOINT
        return fit_classifier(network, config, state.index, rows, source, device, path, features, told)


def frozen_features(state: State, network: ClassifierNetwork, rows: list[int]) -> tuple[list[int], torch.Tensor]:
    """Features under the head, committed in shards like everything else that takes long, and the rows they are of."""
    run = state.run
    basis = keys.feature_basis(run.config, state.index, rows)
    folder = keys.stage_folder(run.workspace, "features", basis)
    size = run.config.runtime.shard_images
    shards = -(-len(rows) // size)
    folder.begin(basis, shards=shards, classes=state.index.classes, index_stage=state.index_stage)
    network.model.eval().requires_grad_(False).to(state.device)
    work = FeatureWork(run.config, network, state.source(), state.device, rows, folder)
    features_flow.with_options(task_runner=thread_runner(state.network_workers))(work, state.network_workers, shards)
    network.model.get_submodule(network.head).requires_grad_(True)
    table = folder.table(FACTS)
    return table.column("row").to_pylist(), torch.tensor(table.column("feature").to_pylist(), dtype=torch.float32)


@flow(name="features", validate_parameters=False, persist_result=False)
def features_flow(work: FeatureWork, workers: int, shards: int) -> None:
    """Features of a frozen classifier's training images."""
    run_work(work, workers, shards)
