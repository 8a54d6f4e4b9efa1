"""Shards on one and on two worker processes, against a plain loop here: ``python -m benchmarks.dask_speed [IMAGES]``.

The soft maps of a small classifier and their refinement by PAMR, shards of 16 images, one thread inside a computation,
the same ``Work`` objects everywhere. ``loop`` does them in this process, one after the other; ``1`` and ``2`` are
worker processes that are up and have done the same before, so that starting Python does not count; sending the work,
unpacking its network and every commit do. ``threads`` is what a run without a cluster does, in two threads of this
process. Rounds in turn, medians of ratios. Read: what a cluster costs (``1`` against ``loop``, 1.0 at best), what a
second worker gains (``2`` against ``1``, 0.5 at best, on two idle cores), and what processes gain over threads.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.common import interleaved, private_prefect, ratio, seconds, show, spread

if TYPE_CHECKING:
    from flows.cluster import Cluster
    from tasks.context import Work
    from tasks.state import State

SIDE = 128
ROUNDS = 5
STEPS = {"propose": "propose-*", "refine": "mask-*"}
OVERRIDES = [
    f"classifier.input_size={SIDE}",
    "classifier.train.epochs=1",
    "runtime.shard_images=16",
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


HERE: dict[str, Callable[["Work", int, int], int]] = {"loop": plain_loop, "threads": two_threads}


def step_call(step: str, state: "State", run_work: Callable[["Work", int, int], int]) -> Callable[[], None]:
    """All shards of one step, done anew."""
    from flows.run import _FLOWS

    def call() -> None:
        for folder in (state.run.workspace.root / "stages").glob(STEPS[step]):
            shutil.rmtree(folder)
        with patch(f"flows.{step}.run_work", run_work):
            _FLOWS[step].fn(state)

    return call


def prepared(folder: Path, images: int) -> "State":
    """A run whose classifier is trained, with its proposals."""
    from configs import load_config
    from flows.commands import run_command
    from flows.run import _FLOWS
    from storage.demo_data import make_demo
    from storage.workspace import Workspace
    from tasks.context import Run
    from tasks.state import State

    data = make_demo(folder / "data", images=images, size=SIDE)
    overrides = [f"dataset.root={data}", *OVERRIDES]
    if run_command("preset:demo", folder / "workspace", None, overrides, last="refine", strict=False):
        raise RuntimeError("the run that comes before failed; see above")
    state = State(Run(load_config("preset:demo", overrides), Workspace(folder / "workspace")))
    for step in ("stage", "classify", *STEPS):
        # Nothing is left to do: the state finds out what there is.
        with patch(f"flows.{step}.run_work", plain_loop):
            _FLOWS[step].fn(state)
    return state


def main(images: int = 256) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, private_prefect(Path(name)):
        import torch

        from configs.schema import Runtime
        from flows.cluster import Cluster

        state = prepared(Path(name), images)
        torch.set_num_threads(1)
        runtime = Runtime(executor="dask", device="cpu")
        clusters = {str(count): Cluster(runtime, count, cuda=False, name=f"{name}-{count}") for count in (1, 2)}
        rows = []
        try:
            started = {count: seconds(partial(getattr, one, "client")) for count, one in clusters.items()}
            for step in STEPS:
                ways = {**HERE, **{count: on(one) for count, one in clusters.items()}}
                calls: dict[str, Callable[[], object]] = {
                    name: step_call(step, state, how) for name, how in ways.items()
                }
                times = interleaved(calls, ROUNDS)
                for title, floor in (("1", "loop"), ("2", "1"), ("threads", "loop"), ("2", "threads")):
                    pair = times[title], times[floor]
                    rows.append((step, f"{title} / {floor}", ratio(*pair), spread(*pair)))
        finally:
            for one in clusters.values():
                one.close()
        show(f"{images} images", ("step", "workers", "ratio", "range"), rows)
        show("to start a cluster", ("workers", "seconds"), [*started.items()])


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
