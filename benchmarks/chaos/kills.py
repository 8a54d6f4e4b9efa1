"""Kill runs at random moments until that was done so many times; every run that ends must have the same bytes.

``python -m benchmarks.chaos.kills [--kills 200] [--executor local|dask] [--images 48] [--seed 0]``. A small run on the
demo's data is done undisturbed first. Then runs start in a fresh workspace, each is killed (SIGKILL, the whole session
of processes with it for ``dask``) after a random time, and begun again until one ends; its workspace is compared with
the undisturbed one, file by file, and thrown away. One Prefect server stands over all of it, as it does for scheduled
runs, so that more kills fall into the work than into the start of Python.

Read: ``lost`` counts committed shards that a later run did again (must be 0), ``redone`` the shards that were in work
at a kill, ``different`` files whose bytes differ from the undisturbed run (must be 0).
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.common import show
from flows.server import HOST, answers

EARLIEST, LATEST = 0.7, 0.75
"""Kills fall between these shares of the times to the first record and to the end of an undisturbed run: what is begun
again has less to do, so that the last stages are reached, and killed in, too."""


@dataclass
class Tally:
    """What has happened so far."""

    kills: int = 0
    whole: int = 0
    lost: int = 0
    redone: int = 0
    different: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    """By the stage that was in work at a kill."""


def config_text(data: Path, executor: str) -> str:
    """A run of several shards with a training, maps, refinement and metrics."""
    return (
        f"dataset: {{format: table, root: {data}, table: labels.csv, labels: labels, mask: mask, split_column: split,\n"
        "  classes: [brick, coins, grass, gravel]}\n"
        "classifier: {backbone: small, input_size: 64, train: {epochs: 3, batch_size: 8}}\n"
        "proposals: [{method: grad_cam, layers: [S3, S4, S5], truncation: 20}]\n"
        "train: [{model: unet, width: 16, optimise: {epochs: 3, batch_size: 8}}]\n"
        "refine: [{step: scg, layers: [S3, S4]}, {step: pamr}, {step: otsu}]\n"
        f"runtime: {{device: cpu, shard_images: 6, workers: 2, threads: 1, executor: {executor}}}\n"
    )


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[None]:
    """A server of its own, which all runs talk to."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://{HOST}:{port}/api"}
    command = [sys.executable, "-m", "flows.cli", "server", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not answers(os.environ["PREFECT_API_URL"]):
            if server.poll() is not None:
                raise SystemExit(f"the Prefect server ended with {server.returncode}")
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait()


def start(config: Path, workspace: Path) -> subprocess.Popen[bytes]:
    """A run in a session of its own, so that a kill reaches all of it."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(config), "--workspace", str(workspace)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def contents(workspace: Path) -> dict[str, bytes]:
    """What a run computed: arrays, tables without times, weights; no records, which tell durations."""
    found: dict[str, bytes] = {}
    for path in sorted(workspace.rglob("*")):
        if not path.is_file() or path.parent.name in ("commits", "runs") or path.name in ("lock", "run.json"):
            continue
        if path.name == "report.html":  # shows the configuration, and so the executor
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read()
            kept = [name for name in table.column_names if name != "checked_ns"]
            data = repr(table.select(kept).to_pydict()).encode()
        found[str(path.relative_to(workspace))] = data
    return found


def records(workspace: Path) -> dict[str, int]:
    """Commit records and when they were written."""
    return {str(path): path.stat().st_mtime_ns for path in workspace.glob("*/*/commits/[!.]*.json")}


def half_done(workspace: Path) -> list[str]:
    """Shards whose first table is there and whose record is not."""
    tables = workspace.glob("stages/*/facts/[!.]*.parquet")
    return [path.parents[1].name for path in tables if not (path.parents[1] / "commits" / f"{path.stem}.json").exists()]


def leave_alone(config: Path, workspace: Path) -> tuple[float, float]:
    """An undisturbed run; seconds to its first record and to its end."""
    process, began = start(config, workspace), time.monotonic()
    while process.poll() is None and not records(workspace):
        time.sleep(0.02)
    first = time.monotonic() - began
    if status := process.wait():
        raise SystemExit(f"the undisturbed run ended with {status}")
    return first, time.monotonic() - began


def torment(config: Path, workspace: Path, draw: Callable[[], float], kills: int) -> Tally:
    """Kill and begin again until a run ends, or that was done ``kills`` times and one is left alone."""
    tally, before = Tally(), records(workspace)
    while True:
        process = start(config, workspace)
        last = tally.kills >= kills
        try:
            status = process.wait(None if last else draw())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            tally.kills += 1
            status = None
        after = records(workspace)
        tally.lost += sum(after.get(path) != when for path, when in before.items())
        before = after
        if status is None:
            begun = half_done(workspace)
            tally.redone += len(begun)
            tally.states.update({name.rpartition("-")[0] for name in begun} or {"between shards"})
        elif status == 0:
            return tally
        else:
            raise SystemExit(f"a run on {workspace} ended with {status}; look at it by hand")


def main() -> None:
    """Kill as often as asked, show the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--executor", choices=["local", "dask"], default="local")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from storage.demo_data import make_demo

    draw, total, began = random.Random(asked.seed), Tally(), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="maskmill-chaos-") as folder,
        prefect_server(Path(folder) / "prefect"),
    ):
        root = Path(folder)
        config = root / "config.yaml"
        config.write_text(config_text(make_demo(root / "data", images=asked.images, size=64), asked.executor))
        leave_alone(config, root / "first")  # compiles and caches what every later run finds
        first, last = leave_alone(config, root / "calm")
        expected = contents(root / "calm")
        print(f"undisturbed: {first:.1f} s to the first record, {last:.1f} s to the end", flush=True)
        while total.kills < asked.kills:
            place = root / "tormented"
            moment = partial(draw.uniform, EARLIEST * first, LATEST * last)
            one = torment(config, place, moment, asked.kills - total.kills)
            found = contents(place)
            names = sorted({*found, *expected})
            total.different += [name for name in names if found.get(name) != expected.get(name)]
            shutil.rmtree(place)
            total.kills, total.whole = total.kills + one.kills, total.whole + 1
            total.lost, total.redone = total.lost + one.lost, total.redone + one.redone
            total.states += one.states
            print(f"{total.kills} kills, {total.whole} runs whole, {len(total.different)} files differ", flush=True)
    minutes = (time.monotonic() - began) / 60
    rows = [[asked.executor, total.kills, total.whole, total.lost, total.redone, len(total.different), minutes]]
    show("Kills", ["executor", "kills", "whole runs", "lost", "redone", "different", "minutes"], rows)
    show("In work at a kill", ["stage", "times"], [[name, count] for name, count in total.states.most_common()])
    if total.lost or total.different:
        raise SystemExit(f"different: {', '.join(total.different[:5])}")


if __name__ == "__main__":
    main()
