"""Shards on one and two worker processes and in a loop: ``python -m benchmarks.dask_speed [IMAGES [ROUNDS [SIZE]]]``.

The soft maps of a small classifier and their refinement by PAMR, shards of SIZE images (16), one thread inside a
computation, the same ``Work`` objects everywhere. ``loop`` does them in this process, one after the other; ``1`` and
``2`` are worker processes that are up and have done the same before, so that starting Python does not count; sending
the work, unpacking its network and every commit do. ``bare`` are two processes that were given half of the shards each
and know nothing of a cluster: what the machine can do. ``threads`` is what a run does in two threads of this process.
Rounds in turn, medians of ratios. Read: what a cluster costs (``1`` against ``loop`` and ``2`` against ``bare``, 1.0 at
best), what a second worker gains (``2`` against ``1``, and how much there was to gain: ``bare`` against ``loop``, 0.5
at best, on two idle cores), and what processes gain over threads.
"""

import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.common import interleaved, private_prefect, ratio, seconds, show, spread

if TYPE_CHECKING:
    from flows.cluster import Cluster
    from tasks.context import Work
    from tasks.state import State

SIDE = 128
ROUNDS = 5
BARE = 2
STEPS = {"propose": "propose-*", "refine": "mask-*"}
OVERRIDES = [
    f"classifier.input_size={SIDE}",
    "classifier.train.epochs=1",
    "runtime.threads=1",
    "runtime.workers=1",
    "runtime.device=cpu",
    "refine=[{step: pamr}, {step: otsu}]",
]


def plain_loop(work: "Work", _workers: int, _total: int) -> int:
    """Stands in for ``flows.pool.run_work``: the shards here, one after the other."""
    todo = work.missing()
    for shard in todo:
        work(shard)
    return len(todo)


def two_threads(work: "Work", _workers: int, _total: int) -> int:
    """The same in two threads, which share Python's lock."""
    todo = work.missing()
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(work, todo):
            pass
    return len(todo)


def on(cluster: "Cluster") -> Callable[["Work", int, int], int]:
    """The same on a cluster."""
    from tqdm import tqdm

    from flows.progress import Bar

    def done(work: "Work", _workers: int, _total: int) -> int:
        todo = work.missing()
        cluster.do(work, 1, todo, Bar(tqdm(disable=True)))
        return len(todo)

    return done


PAIRS = [("1", "loop"), ("2", "1"), ("2", "bare"), ("bare", "loop"), ("threads", "loop"), ("2", "threads")]
HERE: dict[str, Callable[["Work", int, int], int]] = {"loop": plain_loop, "threads": two_threads}


def bare(pool: Any) -> Callable[["Work", int, int], int]:
    """The same in the processes of a pool, each with its share from the beginning."""

    def done(work: "Work", _workers: int, _total: int) -> int:
        from flows.parcel import pack

        todo, parcel = work.missing(), pack(work, "cpu").data
        pool.starmap(do_all, [(parcel, todo[first::BARE]) for first in range(BARE)], chunksize=1)
        return len(todo)

    return done


def do_all(parcel: bytes, shards: list[int]) -> None:
    """What a bare process does."""
    import torch

    from flows.parcel import unpack
    from tasks.malloc import keep_memory

    keep_memory()
    torch.set_num_threads(1)
    work = unpack(parcel)
    for shard in shards:
        work(shard)


def step_call(step: str, state: "State", run_work: Callable[["Work", int, int], int]) -> Callable[[], None]:
    """All shards of one step, done anew."""
    from flows.run import _FLOWS

    def call() -> None:
        for folder in (state.run.workspace.root / "stages").glob(STEPS[step]):
            shutil.rmtree(folder)
        with patch(f"flows.{step}.run_work", run_work):
            _FLOWS[step].fn(state)

    return call


def prepared(folder: Path, images: int, shard_images: int = 16) -> "State":
    """A run whose classifier is trained, with its proposals."""
    from configs import load_config
    from flows.commands import run_command
    from flows.run import _FLOWS
    from storage.demo_data import make_demo
    from storage.workspace import Workspace
    from tasks.context import Run
    from tasks.state import State

    data = make_demo(folder / "data", images=images, size=SIDE)
    overrides = [f"dataset.root={data}", f"runtime.shard_images={shard_images}", *OVERRIDES]
    if run_command("preset:demo", folder / "workspace", None, overrides, last="refine", strict=False):
        raise RuntimeError("the run that comes before failed; see above")
    state = State(Run(load_config("preset:demo", overrides), Workspace(folder / "workspace")))
    for step in ("stage", "classify", *STEPS):
        # Nothing is left to do: the state finds out what there is.
        with patch(f"flows.{step}.run_work", plain_loop):
            _FLOWS[step].fn(state)
    return state


def main(images: int = 256, rounds: int = ROUNDS, shard_images: int = 16) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, private_prefect(Path(name)):
        import torch

        from configs.schema import Runtime
        from flows.cluster import Cluster

        state = prepared(Path(name), images, shard_images)
        torch.set_num_threads(1)
        runtime = Runtime(executor="dask", device="cpu")
        clusters = {str(count): Cluster(runtime, count, cuda=False, name=f"{name}-{count}") for count in (1, 2)}
        pool = multiprocessing.get_context("spawn").Pool(BARE)
        rows = []
        try:
            started = {count: seconds(partial(getattr, one, "client")) for count, one in clusters.items()}
            for step in STEPS:
                ways = {**HERE, **{count: on(one) for count, one in clusters.items()}, "bare": bare(pool)}
                calls: dict[str, Callable[[], object]] = {
                    name: step_call(step, state, how) for name, how in ways.items()
                }
                times = interleaved(calls, rounds)
                for title, floor in PAIRS:
                    pair = times[title], times[floor]
                    rows.append((step, f"{title} / {floor}", ratio(*pair), spread(*pair)))
        finally:
            pool.terminate()
            for one in clusters.values():
                one.close()
        show(f"{images} images", ("step", "workers", "ratio", "range"), rows)
        show("to start a cluster", ("workers", "seconds"), [*started.items()])


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
