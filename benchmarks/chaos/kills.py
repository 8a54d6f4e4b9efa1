"""Kill runs at random moments until that was done so many times; every run that ends must have the same bytes.

``python -m benchmarks.chaos.kills [--kills 200] [--executor local|dask] [--images 48] [--seed 0]``. A small run on the
demo's data is done undisturbed first. Then runs start in a fresh workspace, each is killed (SIGKILL, the whole session
of processes with it for ``dask``) after a random time, and begun again until one ends; its workspace is compared with
the undisturbed one, file by file, and thrown away. Prefect's database is kept over the kills, as on a real machine.

Read: ``lost`` counts committed shards that a later run did again (must be 0), ``redone`` the shards that were in work
at a kill, ``different`` files whose bytes differ from the undisturbed run (must be 0).
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.common import show

SLOWEST = 1.2
"""Kills fall into this share of the time that an undisturbed run takes."""


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


def start(config: Path, workspace: Path, home: Path) -> subprocess.Popen[bytes]:
    """A run in a session of its own, so that a kill reaches all of it."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(config), "--workspace", str(workspace)],
        env={**os.environ, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"},
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


def torment(config: Path, workspace: Path, home: Path, draw: random.Random, limit: float, kills: int) -> Tally:
    """Kill and begin again until a run ends, or that was done ``kills`` times and one is left alone."""
    tally, before = Tally(), records(workspace)
    while True:
        process = start(config, workspace, home)
        last = tally.kills >= kills
        try:
            status = process.wait(None if last else draw.uniform(0, limit))
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
    with tempfile.TemporaryDirectory(prefix="maskmill-chaos-") as folder:
        root = Path(folder)
        config = root / "config.yaml"
        config.write_text(config_text(make_demo(root / "data", images=asked.images, size=64), asked.executor))
        since = time.monotonic()
        if status := start(config, root / "calm", root / "prefect").wait():
            raise SystemExit(f"the undisturbed run ended with {status}")
        took, expected = time.monotonic() - since, contents(root / "calm")
        while total.kills < asked.kills:
            place = root / "tormented"
            one = torment(config, place, root / "prefect", draw, SLOWEST * took, asked.kills - total.kills)
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
