"""What Prefect costs: a step's flow against the same shards done in a bare loop.

``python -m benchmarks.flow_overhead [IMAGES] [SIDE]``. Both sides run the code of the product's flow on copies of one
workspace, with the same Work objects and the same number of threads; in the bare loop ``run_work`` is a thread pool
that calls the work, and the flow's plain function is called. Prefect's embedded server is already up; waking it, and a
flow that finds nothing to do, are shown apart. Read: ratio 1.05 means that orchestration adds 5 % to the step, the
flow's own start included.
"""

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.common import interleaved, private_prefect, ratio, seconds, show, spread

if TYPE_CHECKING:
    from tasks.context import Work
    from tasks.state import State

STEPS = ("stage", "propose", "refine", "evaluate")
REPETITIONS = 3
OVERRIDES = ["runtime.shard_images=100", "runtime.threads=1", "runtime.workers=2", "classifier.train.epochs=1"]


def bare_loop(work: "Work", workers: int, total: int) -> int:  # noqa: ARG001
    """Stands in for ``flows.pool.run_work``: the same shards in as many threads, and nothing else."""
    todo = work.missing()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, todo))
    return len(todo)


def step_call(flow: Any, state: "State", workers: int, *, bare: bool) -> Callable[[], None]:
    """One step on one state, as a flow or as its plain function over the bare loop."""
    from flows.pool import thread_runner, without_heartbeat

    def call() -> None:
        if not bare:
            with without_heartbeat():
                flow.with_options(task_runner=thread_runner(workers))(state)
            return
        with patch(f"{flow.fn.__module__}.run_work", bare_loop):
            flow.fn(state)

    return call


def prepare(folder: Path, images: int, side: int) -> tuple[Path, list[str]]:
    """A demo data set and a workspace where its classifier is trained for an epoch."""
    from flows.commands import run_command
    from storage.demo_data import make_demo

    data = make_demo(folder / "data", images=images, size=side)
    overrides = [f"dataset.root={data}", f"classifier.input_size={side}", *OVERRIDES]
    workspace = folder / "base"
    if run_command("preset:demo", workspace, None, overrides, last="classify", strict=False):
        raise RuntimeError("the benchmark's workspace could not be made")
    return workspace, overrides


class Steps:
    """Runs the steps one after the other on a fresh copy of the base workspace, timing each."""

    def __init__(self, folder: Path, base: Path, overrides: list[str]) -> None:
        from configs import load_config

        self.folder, self.base = folder, base
        self.config = load_config("preset:demo", overrides)
        self.times: dict[str, dict[str, list[float]]] = {}

    def run(self, name: str, *, bare: bool, again: bool = False) -> None:
        """All steps; ``again`` repeats each at once, when nothing is left to do."""
        from flows.classify import classify_flow
        from flows.run import _FLOWS
        from storage.workspace import Workspace
        from tasks.context import Run
        from tasks.state import State

        copy = self.folder / "copy"
        shutil.copytree(self.base, copy)
        # The staging of the base goes, its classifier stays.
        shutil.rmtree(copy / "stages")
        state = State(Run(self.config, Workspace(copy)))
        for step in STEPS:
            call = step_call(_FLOWS[step], state, self.config.runtime.workers, bare=bare)
            self.times.setdefault(step, {}).setdefault(name, []).append(seconds(call))
            if again:
                self.times[step].setdefault("idle", []).append(seconds(call))
            if step == "stage":
                classify_flow.fn(state)
        shutil.rmtree(copy)


def main(images: int = 1000, side: int = 64) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, private_prefect(Path(name)) as woken:
        folder = Path(name)
        steps = Steps(folder, *prepare(folder, images, side))
        interleaved(
            {
                "bare": lambda: steps.run("bare", bare=True),
                "flow": lambda: steps.run("flow", bare=False),
            },
            REPETITIONS,
        )
        steps.run("last", bare=False, again=True)
        for kind in ("bare", "flow", "idle"):
            every = zip(*(steps.times[step][kind] for step in STEPS), strict=True)
            steps.times.setdefault("all", {})[kind] = [sum(one) for one in every]
        rows = []
        for step in (*STEPS, "all"):
            # The first round warmed up, the last flow asked what an idle one costs.
            bare, flow = steps.times[step]["bare"][1:], steps.times[step]["flow"][1:]
            shown = statistics.median(bare), statistics.median(flow)
            rows.append([step, *shown, ratio(flow, bare), spread(flow, bare), *steps.times[step]["idle"]])
        header = ["step", "bare s", "flow s", "ratio", "range", "idle flow s"]
        show(f"{images} images of {side} pixels, 100 to a shard; embedded server woken in {woken:.1f} s", header, rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
