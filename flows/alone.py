"""A shard that kills whoever does it, in a process of its own: the image that does it is found and left out.

The shard is tried as it is first: it may have died only because another one shared its worker. If it kills this process
too, its images are rehearsed one by one, nothing being written; those that kill are set aside for the stage, and the
shard is done without them.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch

from flows.parcel import unpack
from storage.aside import set_aside
from storage.stages import RehearsedError, rehearsal
from tasks.context import ShardWork, Work
from tasks.processes import die_with_parent
from tasks.turns import turn

_TAIL = 2000


class DeadlyShardError(RuntimeError):
    """A shard cannot be done, and no image of it can be blamed."""


class Order(NamedTuple):
    """What the process is to do: rehearse these rows, or do the shard."""

    parcel: bytes
    threads: int
    shard: int
    rows: list[int] | None


class _Outcome(NamedTuple):
    """How the process ended: the signal that killed it (0: none), and the row that it had last begun."""

    killed: int
    row: int | None


def do_alone(work: ShardWork, parcel: bytes, threads: int, shard: int) -> dict[int, str]:
    """Do one shard in a process of its own; images that kill that are left out from now on.

    Parameters
    ----------
    work
        The work; it only tells which images there are.
    parcel
        The same, packed.
    threads
        Threads inside one computation.
    shard
        The shard.

    Returns
    -------
    dict
        Rows that were set aside, with the reasons.

    Raises
    ------
    DeadlyShardError
        It still kills its process, though none of its images does so alone; or the process failed.
    """
    whole = Order(parcel, threads, shard, None)
    if not _run(whole).killed:
        return {}
    known = work.left_out(shard)
    deadly = _find([row for row in work.images(shard) if row not in known], whole)
    if deadly:
        for folder in work.lacking(shard):
            set_aside(folder, shard, deadly)
        killed = _run(whole).killed
    if not deadly or killed:
        raise DeadlyShardError(
            f"{work.title}, shard {shard}: its process is killed, though none of its images does it alone; do fewer "
            "at a time (classifier.batch_size) or give it more memory"
        )
    return deadly


def _find(rows: Sequence[int], order: Order) -> dict[int, str]:
    """Rows that kill a process which looks at nothing else of the shard."""
    deadly: dict[int, str] = {}
    left = list(rows)
    while left:
        ended = _run(order._replace(rows=left))
        if not ended.killed:
            break
        if ended.row is None:
            raise DeadlyShardError(f"shard {order.shard}: its process is killed before it looks at an image")
        deadly[ended.row] = f"the process that looks at it is killed by {signal.Signals(ended.killed).name}"
        left = left[left.index(ended.row) + 1 :]
    return deadly


def _run(order: Order) -> _Outcome:
    command = [sys.executable, "-m", __name__, str(os.getpid())]
    done = subprocess.run(command, input=pickle.dumps(order), capture_output=True)
    if done.returncode > 0:
        raise DeadlyShardError(f"shard {order.shard} in a process of its own: {done.stderr.decode()[-_TAIL:].strip()}")
    begun = done.stdout.split()
    return _Outcome(-done.returncode, int(begun[-1]) if begun else None)


def _obey(order: Order) -> None:
    work = unpack(order.parcel)
    torch.set_num_threads(order.threads)
    with turn(work.device):
        if order.rows is None:
            work(order.shard)
        else:
            _rehearse(work, order.shard, order.rows)


def _rehearse(work: Work, shard: int, rows: Sequence[int]) -> None:
    """Name each row and work on it alone, up to the first write: the last one named is the one that kills."""
    if not isinstance(work, ShardWork):
        raise TypeError(f"expected a work on images, saw {type(work).__name__}")
    for row in rows:
        print(row, flush=True)
        work.only = row
        # The end of a rehearsal that went well.
        with suppress(RehearsedError), rehearsal():
            work(shard)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    _obey(pickle.load(sys.stdin.buffer))
