"""Attend: the transformer, pretrained here or taken over, and its attention on every image."""

import time
from pathlib import Path

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.pool import run_work
from flows.progress import progress
from flows.threads import set_threads
from methods.proposals import cls_attention
from storage import keys
from storage.models import is_saved, weights_digest
from storage.stages import stage_key
from tasks.attend import AttendWork, begin_attention
from tasks.images import probe_images
from tasks.state import State
from tasks.transformer import load_transformer, new_transformer, save_transformer


def transformer_folder(state: State) -> None:
    """Name the folder of the run's transformer, where it has one."""
    transformer = state.run.config.transformer
    if transformer is not None:
        basis = keys.transformer_basis(transformer, state.index)
        state.transformer = state.run.workspace.model("transformer", stage_key("transformer", basis))


def attention_folder(state: State) -> None:
    """Name the folder of its attention; the transformer is there."""
    transformer = state.run.config.transformer
    if transformer is None or state.transformer is None:
        return
    basis = keys.attention_basis(state.run.config, transformer, state.index, weights_digest(state.transformer))
    state.attended = keys.stage_folder(state.run.workspace, "attend", basis)


@flow(name="attend", validate_parameters=False, persist_result=False)
def attend_flow(state: State) -> None:
    """Bring the transformer and its attention up to date; nothing to do for a run without one."""
    transformer_folder(state)
    state.done["attend"] = 0
    transformer, config = state.run.config.transformer, state.run.config
    if transformer is None or state.transformer is None:
        return
    if not is_saved(state.transformer):
        set_threads(config, 1)
        try:
            make_transformer.submit(state, state.transformer).result()
        except BaseException:
            # A signal reaches only this thread: without its images the training ends with the batch in hand.
            state.source().close()
            raise
        set_threads(config, state.network_workers)
    attention_folder(state)
    if state.attended is None or state.attended.complete:
        return
    vit = load_transformer(state.transformer, weights_digest(state.transformer), state.device)
    with torch.no_grad():
        probe = cls_attention(vit, probe_images(transformer.input_size, state.device)[:1])
    basis = keys.attention_basis(config, transformer, state.index, weights_digest(state.transformer))
    begin_attention(state.attended, basis, state.index, state.index_stage, probe)
    vit.to(getattr(torch, config.runtime.precision))
    work = AttendWork(config, transformer, state.index, vit, state.source(), state.device, state.attended)
    state.done["attend"] = run_work(work, state.network_workers, state.shards)


@task(name="transformer", cache_policy=NO_CACHE, persist_result=False)
def make_transformer(state: State, folder: Path) -> None:
    """Pretrain (or copy) the transformer and commit it; the state after each epoch survives a kill."""
    from tasks.pretrain import fit_transformer

    began = time.monotonic()
    config = state.run.config.transformer
    if config is None:
        raise RuntimeError("expected a transformer section")
    vit = new_transformer(config)
    if config.pretrain is None:
        save_transformer(folder, vit, config, [], began)
        return
    rows = keys.rows_of(state.index, config.pretrain.split)
    with progress("pretrain", config.pretrain.epochs, 0, "epochs") as bar:

        def told(_done: int, _total: int, loss: float) -> None:
            bar.step(f"loss {loss:.4f}")

        history = fit_transformer(vit, config, rows, state.source(), state.device, folder / "checkpoint.pt", told)
    save_transformer(folder, vit, config, history, began)
