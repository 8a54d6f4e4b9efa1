"""Kill runs at random moments until that was done so many times; every run that ends must have the same bytes.

``python -m benchmarks.chaos.kills [--kills 200] [--executor local|dask] [--images 48] [--seed 0] [--keep FOLDER]``. A
small run on the demo's data is done undisturbed first. Then runs start in a fresh workspace, each is killed (SIGKILL,
the whole session of processes with it for ``dask``) after a random time, and begun again until one ends; its workspace
is compared with the undisturbed one, file by file, and thrown away (``--keep`` keeps what differs). One Prefect server
stands over all of it, as it does for scheduled runs, so that more kills fall into the work than into the start.

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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.common import show
from flows.server import HOST, answers

SHARE = 0.6
"""Kills fall into this share of the time that an undisturbed run works, counted from when a run holds the workspace:
what is begun again has less to do, so that the last stages are reached, and killed in, too."""
AT_START = 0.1
"""Share of the kills that fall before that."""


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


def await_hold(process: subprocess.Popen[bytes], workspace: Path) -> float:
    """Wait until a run holds its workspace or ends; returns the seconds that took."""
    began, lock = time.monotonic(), workspace / "lock"
    while process.poll() is None and not (lock.exists() and str(process.pid) in lock.read_text()):
        time.sleep(0.02)
    return time.monotonic() - began


def leave_alone(config: Path, workspace: Path) -> tuple[float, float]:
    """An undisturbed run; seconds until it holds the workspace, and from then to its end."""
    process = start(config, workspace)
    held, began = await_hold(process, workspace), time.monotonic()
    if status := process.wait():
        raise SystemExit(f"the undisturbed run ended with {status}")
    return held, time.monotonic() - began


def wait_for(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Exit status of a process, None if it lives on."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def torment(config: Path, workspace: Path, draw: random.Random, times: tuple[float, float], kills: int) -> Tally:
    """Kill and begin again until a run ends, or that was done ``kills`` times and one is left alone."""
    tally, before = Tally(), records(workspace)
    while True:
        process = start(config, workspace)
        if tally.kills >= kills:
            status: int | None = process.wait()
        elif draw.random() < AT_START:
            status = wait_for(process, draw.uniform(0, times[0]))
        else:
            await_hold(process, workspace)
            status = wait_for(process, draw.uniform(0, SHARE * times[1]))
        if status is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            tally.kills += 1
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
    parser.add_argument("--keep", type=Path, help="where workspaces go that came out differently")
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
        times, expected = leave_alone(config, root / "calm"), contents(root / "calm")
        print(f"undisturbed: {times[0]:.1f} s to start, {times[1]:.1f} s of work", flush=True)
        while total.kills < asked.kills:
            place = root / "tormented"
            one = torment(config, place, draw, times, asked.kills - total.kills)
            found = contents(place)
            names = sorted({*found, *expected})
            if different := [name for name in names if found.get(name) != expected.get(name)]:
                print(f"different: {', '.join(different)}", flush=True)
                total.different += different
                if asked.keep is not None:
                    for kept in (place, root / "calm"):
                        shutil.copytree(kept, asked.keep / f"{kept.name}-{total.kills}")
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
