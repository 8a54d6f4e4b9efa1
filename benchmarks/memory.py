"""Resident memory of a long run: does any step keep something for every image it has done?

``python -m benchmarks.memory [IMAGES]`` runs stage, propose, refine and evaluate on tiny images in one process, looks
at the resident memory after every shard, and fits a line over the last four fifths of each step. Read: slope in bytes
per image; a step that is flat stays within the noise of the allocator, some hundred bytes. ``start`` and ``peak`` tell
what a step holds at once: the index itself costs about 1 kB an image.
"""

import csv
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.common import private_prefect, resident_bytes, seconds, show

if TYPE_CHECKING:
    from tasks.context import Work

SIDE = 32
CLASSES = ("brick", "coins", "grass", "gravel")  # of preset:demo, which the benchmark runs
TRAINED_ON = 64
STEPS = ("stage", "classify", "propose", "refine", "evaluate")


def make_images(folder: Path, count: int) -> Path:
    """A table of tiny images of noise with masks; a few are there to train on, the rest are halved in two splits."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "labels", "mask", "split"))
        for number in range(count):
            label = number % len(CLASSES)
            paths = f"images/{number:06d}.png", f"masks/{number:06d}.png"
            Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / paths[0])
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[8:24, 8:24] = label + 1
            Image.fromarray(mask).save(folder / paths[1])
            split = "few" if number < TRAINED_ON else ("train", "val")[number % 2]
            rows.writerow((paths[0], CLASSES[label], paths[1], split))
    return folder


class Watch:
    """Memory of this process: after every unit of work by step, and its peak by a thread that looks all the time."""

    def __init__(self) -> None:
        self.after: dict[str, list[tuple[int, int]]] = {}
        self.peak = 0
        self._busy = False

    def wrap(self, work: "Work", images: int) -> "Work":
        """The work, looked at after each of its units; they are taken to be equally large."""
        return _Watched(work, self.after.setdefault(work.title, []), images // max(1, len(work.missing())))

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Follow the peak."""
        self.peak, self._busy = resident_bytes(), True
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._busy = False
            thread.join()

    def _look(self) -> None:
        while self._busy:
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.01)


class _Watched:
    def __init__(self, work: "Work", seen: list[tuple[int, int]], images: int) -> None:
        self.work, self.seen, self.images, self.title = work, seen, images, work.title

    def missing(self) -> list[int]:
        return self.work.missing()

    def __call__(self, shard: int) -> None:
        self.work(shard)
        self.seen.append((self.images * (len(self.seen) + 1), resident_bytes()))


def slope(points: list[tuple[int, int]]) -> float:
    """Bytes per image over the last four fifths of a step."""
    x, y = np.asarray(points[len(points) // 5 :], dtype=np.float64).T
    return float(np.polyfit(x, y, 1)[0])


def run_step(step: str, state: Any, watch: Watch, images: int) -> float:
    """One step as a run does it, every unit watched; returns its seconds."""
    from flows.pool import run_work, thread_runner, without_heartbeat
    from flows.run import _FLOWS

    def watched(work: "Work", workers: int, total: int) -> int:
        return run_work(watch.wrap(work, images), workers, total)

    flow = _FLOWS[step].with_options(task_runner=thread_runner(state.workers))
    module = f"flows.{step}.run_work"
    with without_heartbeat(), patch(module, watched), watch.looking():
        return seconds(lambda: flow(state))


def main(images: int = 20_000) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, private_prefect(Path(name)):
        from configs import load_config
        from storage.workspace import Workspace
        from tasks.context import Run
        from tasks.state import State

        data = make_images(Path(name) / "data", images)
        settings = {
            "dataset.root": data,
            "dataset.split": "[few, train, val]",
            "classifier.train_split": "few",
            "classifier.input_size": SIDE,
            "classifier.train.epochs": 1,
            "runtime.threads": 1,
            "runtime.workers": 2,
            "runtime.shard_images": 100,
        }
        config = load_config("preset:demo", [f"{key}={value}" for key, value in settings.items()])
        config = config.model_copy(update={"proposals": config.proposals[:1]})
        state, watch, rows = State(Run(config, Workspace(Path(name) / "workspace"))), Watch(), []
        for step in STEPS:
            before, titles = resident_bytes(), set(watch.after)
            took = run_step(step, state, watch, images)
            rows.append([step, took, f"{1e3 * took / images:.2f}", before >> 20, watch.peak >> 20, ""])
            for title in watch.after.keys() - titles:
                points = watch.after[title]
                rows.append([f"  {title}", "", "", points[0][1] >> 20, points[-1][1] >> 20, f"{slope(points):.0f}"])
        header = ["step", "s", "ms an image", "start MiB", "peak / end MiB", "bytes an image"]
        show(f"{images} images of {SIDE} pixels, 100 to a shard, 2 threads", header, rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
