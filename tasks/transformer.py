"""The vision transformer of a run: built, given its weights, loaded once per process."""

from functools import lru_cache
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from configs.transformer import Transformer
from methods.networks import build_vit
from storage.files import file_digest
from storage.keys import rows_of
from storage.models import WEIGHTS, describe
from storage.weights import find_weights, load_state
from tasks.engine import Progress
from tasks.network import save_model
from tasks.pretrain import fit_transformer
from tasks.processes import Trained
from tasks.state import State


def new_transformer(config: Transformer) -> VisionTransformer:
    """The transformer with its weights from a file, or drawn at random by the seed of its pretraining."""
    weights = find_weights(config.weights)
    if config.pretrain is not None:
        torch.manual_seed(config.pretrain.seed)
    state = None if weights.path is None else load_state(weights.path)
    return build_vit(config.backbone, state, input_size=config.input_size)


def pretrain_transformer(state: State, checkpoint: Path, progress: Progress) -> Trained:
    """Self-distillation of a run's transformer on its own images."""
    config = state.run.config.transformer
    if config is None or config.pretrain is None:
        raise RuntimeError("expected a transformer section with pretrain")
    vit = new_transformer(config).to(state.device)
    rows = rows_of(state.index, config.pretrain.split)
    history = fit_transformer(vit, config, rows, state.source(), state.device, checkpoint, progress)
    return Trained(dict(vit.state_dict()), history)


def save_transformer(folder: Path, config: Transformer, trained: Trained, began: float) -> None:
    """Write weights, description and history, and commit them."""
    about = {"backbone": config.backbone, "input_size": config.input_size}
    save_model(folder, trained.weights, about, trained.history, began)


@lru_cache(maxsize=2)
def load_transformer(folder: Path, weights: str, device: torch.device) -> VisionTransformer:
    """The finished transformer in evaluation mode; ``weights`` is the digest that is expected."""
    about = describe(folder)
    path = folder / WEIGHTS
    if file_digest(path) != weights:
        raise ValueError(f"{path}: expected sha256 {weights[:12]}…; the file changed, run `maskmill verify --repair`")
    vit = build_vit(about["backbone"], load_state(path), input_size=about["input_size"])
    vit.eval().requires_grad_(False).to(device)
    return vit
