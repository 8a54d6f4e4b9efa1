"""A training in several processes, one to a GPU, that average their gradients by torch's DistributedDataParallel."""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from storage.checkpoints import load_checkpoint, save_checkpoint
from tasks.engine import History, Progress
from tasks.state import State

POLL = 0.1
_PDEATHSIG = 1


class Trained(NamedTuple):
    """Weights to keep, and the history by epoch."""

    weights: dict[str, Tensor]
    history: History


Fit = Callable[[State, Path, Progress], Trained]
"""Trains on a state, with a checkpoint; a function that can be pickled."""


def fit_together(fit: Fit, state: State, checkpoint: Path, progress: Progress, processes: int) -> Trained:
    """Train in one process, or in several on one machine.

    Parameters
    ----------
    fit
        The training. In several processes each calls it; the first one writes checkpoints and tells of its epochs.
    state
        The run so far.
    checkpoint
        Where the state after each epoch goes.
    progress
        Told after every epoch.
    processes
        How many; with GPUs, no more than there are.

    Raises
    ------
    ValueError
        More processes than GPUs.
    """
    if processes == 1:
        return fit(state, checkpoint, progress)
    if state.device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(
            f"optimise.processes: expected at most one per GPU ({torch.cuda.device_count()}), saw {processes}"
        )
    with tempfile.TemporaryDirectory() as folder:
        told: Any = multiprocessing.get_context("spawn").SimpleQueue()
        arguments = (os.getpid(), processes, Path(folder), fit, state, checkpoint, told)
        running: Any = spawn(_child, arguments, nprocs=processes, join=False)  # type: ignore[no-untyped-call]
        done = False
        while not done:
            done = running.join(timeout=POLL)
            while not told.empty():
                progress(*told.get())
        found = load_checkpoint(Path(folder) / "trained.pt")
    if found is None:
        raise RuntimeError("expected the weights of the first process, saw none")
    return Trained(**found)


def _child(
    rank: int, parent: int, world: int, folder: Path, fit: Fit, state: State, checkpoint: Path, told: Any
) -> None:
    die_with_parent(parent)
    cuda = state.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world
    )
    try:

        def progress(*what: Any) -> None:
            if rank == 0:
                told.put(what)

        trained = fit(state, checkpoint, progress)
        if rank == 0:
            save_checkpoint(folder / "trained.pt", trained._asdict())
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def die_with_parent(parent: int) -> None:
    """A run that is killed must not leave processes behind that go on writing (Linux).

    Parameters
    ----------
    parent
        Its process number. One that died while this process was starting ends it at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
