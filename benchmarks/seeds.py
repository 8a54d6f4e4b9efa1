"""Repeat runs with several seeds and put their figures side by side, with intervals.

``python -m benchmarks.seeds WORKSPACE CONFIG... [--seeds 0 1 2] [--split val] [--metric miou] [--set KEY=VALUE...]``.
Every seed has a workspace of its own below WORKSPACE, in which the configurations run one after the other, so that they
share what is equal; what is done is not done again. A row is a label set: its name, the mean over the seeds with the
interval in which the mean of many more would lie (Student's t, 95 %), and the value of every seed.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from scipy import stats

from benchmarks.common import show

LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and bounds of its 95 % interval; not a number of a single value.

    Examples
    --------
    >>> [round(one, 3) for one in interval([0.4, 0.5, 0.6])]
    [0.5, 0.252, 0.748]
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    margin = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - margin, mean + margin


def run(config: Path, workspace: Path, seed: int, settings: Sequence[str]) -> Path:
    """One run; returns its newest report."""
    command = [sys.executable, "-m", "flows.cli", "run", str(config), "--workspace", str(workspace)]
    changes = [f"seed={seed}", *settings]
    command += [part for change in changes for part in ("--set", change)]
    print(f"{config.name}, seed {seed}", flush=True)
    prefect = workspace.absolute().parent / "prefect"
    prefect.mkdir(parents=True, exist_ok=True)
    apart = {**os.environ, "PREFECT_HOME": str(prefect)}
    status = subprocess.run(command, check=False, env=apart).returncode
    if status:
        raise SystemExit(f"{config} with seed {seed} ended with {status}")
    return max((workspace / "reports").iterdir(), key=lambda one: (one / "metrics.parquet").stat().st_mtime)


def figures(report: Path, split: str, metric: str) -> dict[str, float]:
    """Values by label set: the floors, and every method at every stage of its masks."""
    rows = pq.read_table(report / "metrics.parquet").to_pylist()
    wanted = [
        one
        for one in rows
        if (one["split"], one["class"], one["metric"]) == (split, "", metric) and one["threshold"] is None
    ]
    return {f"{one['method']}, {one['stage']}": one["value"] for one in wanted}


def main() -> None:
    """Run all, show the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="val")
    parser.add_argument("--metric", default="miou")
    parser.add_argument("--set", nargs="+", action="extend", default=[], dest="settings")
    asked = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in asked.seeds:
        seen: dict[str, float] = {}
        for config in asked.configs:
            report = run(config, asked.workspace / f"seed-{seed}", seed, asked.settings)
            named = figures(report, asked.split, asked.metric)
            seen |= {f"{name} ({config.stem})" if name in seen else name: value for name, value in named.items()}
        for name, value in seen.items():
            found.setdefault(name, []).append(value)
    rows = []
    for name, values in found.items():
        mean, low, high = interval(values)
        rows.append([name, mean, f"{low:.3f} to {high:.3f}", " ".join(f"{one:.3f}" for one in values)])
    show(f"{asked.metric}, {asked.split}", ["label set", "mean", "95 %", f"seeds {asked.seeds}"], rows)


if __name__ == "__main__":
    main()
