"""Turns on a GPU: processes of one machine that share it compute one after the other, a shard or an epoch at a time."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

CPU = torch.device("cpu")
PATIENCE = 10.0
"""Seconds that a process waits without a word."""


@contextmanager
def turn(device: torch.device) -> Iterator[None]:
    """Compute inside as the only one of this user's processes on a GPU; a CPU is shared without asking.

    Two runs on one GPU would otherwise want twice the memory and end with neither done. The system frees the lock of a
    process that dies. A thread that has the turn may ask for it again.

    Parameters
    ----------
    device
        Where the computation is. Without a number: the current GPU.

    Examples
    --------
    >>> with turn(torch.device("cpu")):
    ...     print("at once")
    at once
    """
    if device.type != "cuda":
        yield
        return
    # One object per file and process, which counts how often it was taken in a thread.
    lock = FileLock(lock_path(device), is_singleton=True)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        print(f"waiting for the GPU, which another process computes on ({lock.lock_file})", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_path(device: torch.device) -> Path:
    """The file that stands for a GPU, the same for all processes of a user, whatever number each gives to it."""
    name = torch.cuda.get_device_properties(device).uuid
    return Path(tempfile.gettempdir()) / f"maskmill-{os.getuid()}-gpu-{name}.lock"
