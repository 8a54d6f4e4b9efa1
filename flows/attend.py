"""Attend: the transformer, pretrained here or taken over, and its attention on every image."""

import time
from pathlib import Path

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.pool import run_work
from flows.training import fit_told, train_alone
from storage.models import is_saved, weights_digest
from tasks.attend import AttendWork, attention_maps, begin_attention
from tasks.folders import name_attention, name_transformer
from tasks.images import probe_images
from tasks.processes import Trained
from tasks.state import State
from tasks.transformer import load_transformer, new_transformer, pretrain_transformer, save_transformer


@flow(name="attend", validate_parameters=False, persist_result=False)
def attend_flow(state: State) -> None:
    """Bring the transformer and its attention up to date; nothing to do for a run without one."""
    state.done["attend"] = 0
    config, model = state.run.config, name_transformer(state)
    if config.transformer is None or model is None:
        return
    if not is_saved(model):
        train_alone(state, make_transformer, state, model)
    folder, basis = name_attention(state)
    if folder.complete:
        return
    vit = load_transformer(model, weights_digest(model), state.device)
    probe = attention_maps(vit, probe_images(config.transformer.input_size, state.device)[:1], blocks=config.all_blocks)
    begin_attention(folder, basis, state.index, state.index_stage, probe)
    vit.to(getattr(torch, config.runtime.precision))
    work = AttendWork(
        config, config.transformer, state.index, vit, state.source(), state.device, folder, blocks=config.all_blocks
    )
    state.done["attend"] = run_work(work, state.network_workers, state.shards)


@task(name="transformer", cache_policy=NO_CACHE, persist_result=False)
def make_transformer(state: State, folder: Path) -> None:
    """Pretrain (or copy) the transformer and commit it; the state after each epoch survives a kill."""
    began = time.monotonic()
    config = state.run.config.transformer
    if config is None:
        raise RuntimeError("expected a transformer section")
    if config.pretrain is None:
        save_transformer(folder, config, Trained(dict(new_transformer(config).state_dict()), []), began)
        return
    trained = fit_told(pretrain_transformer, state, folder, config.pretrain, step="pretrain")
    save_transformer(folder, config, trained, began)
