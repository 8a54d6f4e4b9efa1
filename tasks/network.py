"""The classifier of a run: built, loaded once per process, and described beside its weights."""

import copy
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from configs.schema import Classifier, Runtime
from methods.networks import (
    ClassifierNetwork,
    build_classifier,
    fold_batch_norms,
    hasten_pointwise,
    keep_stride,
    load_backbone,
    load_classifier,
)
from storage.checkpoints import CHECKPOINT, remove_checkpoint
from storage.commits import CommitLog
from storage.files import canonical_json, file_digest, write_bytes_atomic, write_table
from storage.models import DESCRIPTION, HISTORY, UNIT, WEIGHTS, describe
from storage.weights import find_weights, load_state, save_state
from tasks.engine import History


def new_network(config: Classifier, classes: int) -> ClassifierNetwork:
    """A classifier with its starting weights; what is drawn at random follows the configured seed."""
    torch.manual_seed(config.train.seed)
    if config.trained is not None:
        network = build_classifier(config.backbone, classes, head=config.head)
        keep_stride(network, config.keep_stride)
        load_classifier(network, load_state(config.trained), str(config.trained))
        return network
    weights = find_weights(config.weights)
    network = build_classifier(config.backbone, classes, head=config.head, pretrained=weights.torchvision)
    keep_stride(network, config.keep_stride)
    if weights.path is not None:
        load_backbone(network, load_state(weights.path), str(weights.path))
    return network


def save_network(
    folder: Path, network: ClassifierNetwork, facts: dict[str, Any], history: History, began: float
) -> None:
    """Write weights, description and history of a finished classifier, and commit them."""
    about = {**facts, "stages": network.stages, "head": network.head}
    save_model(folder, dict(network.model.state_dict()), about, history, began)


def save_model(folder: Path, state: dict[str, Tensor], about: dict[str, Any], history: History, began: float) -> None:
    """Write weights and description of a finished model, and its history where it was trained here; commit them.

    The checkpoint of its training goes.
    """
    save_state(folder / WEIGHTS, state)
    paths = [folder / WEIGHTS, folder / DESCRIPTION]
    write_bytes_atomic(folder / DESCRIPTION, canonical_json({**about, "weights": file_digest(folder / WEIGHTS)}))
    if history:
        # Some terms of a loss begin in a later epoch: the columns are those of all epochs, not of the first.
        names = list(dict.fromkeys(name for one in history for name in one))
        columns = {name: [one.get(name) for one in history] for name in names}
        write_table(folder / HISTORY, pa.table(columns))
        paths.append(folder / HISTORY)
    CommitLog(folder).commit(UNIT, paths, facts={}, began=began)
    remove_checkpoint(folder / CHECKPOINT)


@lru_cache(maxsize=2)
def load_network(folder: Path, weights: str, device: torch.device) -> ClassifierNetwork:
    """The finished classifier in eval mode, loaded once per process; ``weights`` is the digest that is expected."""
    about = describe(folder)
    network = build_classifier(about["backbone"], len(about["classes"]), head=about["head_kind"])
    keep_stride(network, about["keep_stride"])
    path = folder / WEIGHTS
    if file_digest(path) != weights:
        raise ValueError(f"{path}: expected sha256 {weights[:12]}…; the file changed, run `maskmill verify --repair`")
    load_classifier(network, load_state(path), str(path))
    network.model.eval().requires_grad_(False).to(device)
    return network


def as_computed(images: Tensor, runtime: Runtime) -> Tensor:
    """Network input in the number format and memory layout of a run."""
    layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
    return images.to(getattr(torch, runtime.precision), memory_format=layout)


def inference_network(
    network: ClassifierNetwork, runtime: Runtime, probe: Tensor, keep: Collection[str] = ()
) -> ClassifierNetwork:
    """A copy of a network as a run computes it: batch norms folded, number format, memory layout.

    Parameters
    ----------
    network
        A finished classifier in evaluation mode, float32. It stays as it is.
    runtime
        Says what to do.
    probe
        Images ``[B, 3, H, W]`` float32 to try folding on.
    keep
        Names of modules that folding must leave alone, because their outputs are looked at.
    """
    model = copy.deepcopy(network.model)
    if runtime.fold_batch_norm:
        fold_batch_norms(model, probe, keep=keep)
    if probe.device.type == "cpu" and runtime.precision == "float32":
        hasten_pointwise(model)
    model.requires_grad_(False)
    layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
    return replace(network, model=model.to(getattr(torch, runtime.precision)).to(memory_format=layout))
