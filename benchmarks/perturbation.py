"""Score-CAM and Ablation-CAM against the passes they need, and against public packages (``pip install -e '.[bench]'``).

``python -m benchmarks.perturbation [masked|packages|ablation|memory ...]``: ResNet18 with random weights, the 512 maps
of its last stage, images of 64 pixels, 16 masked images at a time, 1 thread, malloc told to keep what it has. Times are
of the processor, not of the clock on the wall, each as the median ratio of interleaved rounds. About three minutes.

masked
    The floor ``bare`` is one forward pass per used map, in batches, with nothing in between. ``3 classes`` are those of
    one image; the passes are the same. ``filled``: four images at 20 maps each, where a batch of 16 takes maps of
    several images, against four calls of one image. Also how far scores in bfloat16 are from those in float32, as a
    part of how far the scores of different maps are apart (which is little, with random weights).
packages
    Score-CAM of one image with all its maps, for one class and for three, float32, default memory format. The
    packages are called once with one row per class: their own way to ask for several.
ablation
    From the layer on, against whole passes per channel.
memory
    Peak of resident memory (``VmHWM``) above what the process holds before, in a process of its own whose malloc gives
    every large block back: Score-CAM at several batch sizes, against one forward pass of as many images.
"""

import gc
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, ratio, resident_bytes, show, spread
from methods.activation import ablation_cam, score_cam
from methods.activation.from_layer import Route
from methods.networks import build_classifier
from tasks.malloc import keep_memory

BACKBONE, SIDE, CLASSES, SEVERAL, BATCH, MAPS, FEW = "resnet18", 64, 20, 3, 16, 128, 20
REPETITIONS, PACKAGE_REPETITIONS = 5, 1
PEAK_SIDE, PEAK_BATCHES = 128, (4, 16, 64)
Calls = dict[str, tuple[Callable[[], object], list[str]]]
"""Calls by name, each with the names of its floors."""


class Subject:
    """A network, images and pairs."""

    def __init__(self, side: int = SIDE, *, last: bool = True) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last if last else torch.contiguous_format
        network = build_classifier(BACKBONE, CLASSES)
        self.layer = list(network.stages.values())[-1]
        self.model: nn.Module = network.model.eval().requires_grad_(False).to(memory_format=layout)
        self.images = torch.rand(4, 3, side, side).to(memory_format=layout)
        self.one = torch.tensor([[0, 0]])
        self.several = torch.tensor([[0, k] for k in range(SEVERAL)])

    def bare(self, maps: int, batch: int = BATCH, precision: torch.dtype = torch.float32) -> None:
        """A forward pass per map, in batches."""
        layout = torch.channels_last if self.images.is_contiguous(memory_format=torch.channels_last) else None
        with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            for start in range(0, maps, batch):
                images = self.images[:1].repeat(min(batch, maps - start), 1, 1, 1)
                self.model(images if layout is None else images.contiguous(memory_format=layout))

    def score(self, pairs: Tensor, maps: int | None, batch: int = BATCH, **options: Any) -> Tensor:
        """Score-CAM of the first image."""
        return score_cam(self.model, self.images[:1], pairs, self.layer, max_maps=maps, batch=batch, **options)

    def ablate(self, maps: int) -> Tensor:
        """Ablation-CAM of the first image."""
        return ablation_cam(self.model, self.images[:1], self.one, self.layer, max_maps=maps, batch=BATCH)

    def ablate_whole(self, maps: int) -> None:
        """The passes of Ablation-CAM, each through the whole network."""
        route = Route(self.model, self.layer, False, BATCH)
        with torch.no_grad():
            for _ in range(0, maps, BATCH):
                route(self.images[0], BATCH, lambda output: output)


def compare(title: str, calls: Calls, repetitions: int) -> None:
    """Time calls in turn and print each against its floors."""
    times = interleaved({name: call for name, (call, _) in calls.items()}, repetitions, time.process_time)
    rows: list[list[object]] = []
    for name, (_, floors) in calls.items():
        took = times[name]
        middle = 1e3 * sorted(took)[len(took) // 2]
        rows += [[name, middle, floor, ratio(took, times[floor]), spread(took, times[floor])] for floor in floors]
        rows += [] if floors else [[name, middle, "", "", ""]]
    header = ["what", "ms of the processor", "floor", "ratio", "range"]
    show(f"{BACKBONE}, {SIDE} pixels, batch {BATCH}, 1 thread: {title}", header, rows)


def masked() -> None:
    """Our masked passes."""
    subject = Subject()
    half = partial(subject.score, subject.one, MAPS, precision=torch.bfloat16)
    rows = torch.tensor([[row, 0] for row in range(4)])

    def filled() -> None:
        score_cam(subject.model, subject.images, rows, subject.layer, max_maps=FEW, batch=BATCH)

    def alone() -> None:
        for row in range(4):
            images = subject.images[row : row + 1]
            score_cam(subject.model, images, subject.one, subject.layer, max_maps=FEW, batch=BATCH)

    calls: Calls = {
        "bare": (partial(subject.bare, MAPS), []),
        "1 class": (partial(subject.score, subject.one, MAPS), ["bare"]),
        "3 classes": (partial(subject.score, subject.several, MAPS), ["1 class"]),
        "bare, bfloat16": (partial(subject.bare, MAPS, precision=torch.bfloat16), ["bare"]),
        "1 class, bfloat16": (half, ["bare, bfloat16", "1 class"]),
        f"four images, {FEW} maps each": (alone, []),
        f"four images, {FEW} maps each, filled": (filled, [f"four images, {FEW} maps each"]),
    }
    compare(f"Score-CAM, {MAPS} of 512 maps", calls, REPETITIONS)
    exact, rough = (scores_seen(subject, precision) for precision in (None, torch.bfloat16))
    noise, signal = (exact - rough).std(0).mean(), exact.std(0).mean()
    header = ["", "error / spread over maps", "spread over maps"]
    show("scores in bfloat16 against float32, 512 maps", header, [["", float(noise / signal), float(signal)]])


def scores_seen(subject: Subject, precision: torch.dtype | None) -> Tensor:
    """Logits of the first classes under each mask, ``[512, 3]``."""
    seen: list[Tensor] = []

    def score(logits: Tensor) -> Tensor:
        seen.append(logits)
        return logits

    subject.score(subject.one, None, score=score, precision=precision)
    return torch.cat(seen[1:])[:, :SEVERAL]  # The first is that of the unmasked image.


def packages() -> None:
    """Public packages."""
    subject = Subject(last=False)
    calls: Calls = {}
    for count, pairs in (("1 class", subject.one), ("3 classes", subject.several)):
        ours = f"ours, {count}"
        calls[ours] = (partial(subject.score, pairs, None), [] if count == "1 class" else ["ours, 1 class"])
        calls[f"grad-cam, {count}"] = (partial(call_grad_cam, subject, pairs), [ours])
        calls[f"torchcam, {count}"] = (partial(call_torchcam, subject, pairs), [ours])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare("Score-CAM, 512 maps, packages", calls, PACKAGE_REPETITIONS)


def call_grad_cam(subject: Subject, pairs: Tensor) -> None:
    """The package grad-cam, whose bar of progress goes nowhere."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from tqdm import tqdm

    targets = [ClassifierOutputTarget(k) for k in pairs[:, 1].tolist()]
    module = subject.model.get_submodule(subject.layer)
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        pytorch_grad_cam.ScoreCAM(model=subject.model, target_layers=[module]) as made,
    ):
        pytorch_grad_cam.score_cam.tqdm.tqdm = partial(tqdm, file=nowhere)
        made.batch_size = BATCH
        made(input_tensor=subject.images[pairs[:, 0]], targets=targets)


def call_torchcam(subject: Subject, pairs: Tensor) -> None:
    """The package torchcam."""
    import torchcam.methods

    with torchcam.methods.ScoreCAM(subject.model, target_layer=subject.layer, batch_size=BATCH) as made:
        made(pairs[:, 1].tolist(), subject.model(subject.images[pairs[:, 0]]))


def ablation() -> None:
    """Ablation from the layer on."""
    subject = Subject()
    calls: Calls = {
        "whole passes": (partial(subject.ablate_whole, MAPS), []),
        "from the layer": (partial(subject.ablate, MAPS), ["whole passes"]),
    }
    compare(f"Ablation-CAM, {MAPS} of 512 maps", calls, REPETITIONS)


def memory() -> None:
    """Peaks of memory, measured in a process of their own."""
    # Above 64 KiB, malloc then maps every block of its own and gives it back, so that peaks show in resident memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "benchmarks.perturbation", "_peaks"], env=environment, check=True)


def _peaks() -> None:
    subject, rows = Subject(PEAK_SIDE), []
    for batch in PEAK_BATCHES:
        calls = partial(subject.bare, batch, batch), partial(subject.score, subject.one, 2 * batch, batch)
        floor, took = ([_peak(call) for _ in range(3)][-1] for call in calls)
        rows.append([f"Score-CAM, {batch} at a time", took / 2**20, floor / 2**20, took / floor])
    title = f"{BACKBONE}, {PEAK_SIDE} pixels: peak memory"
    show(title, ["what", "MiB", "forward pass of as many images MiB", "ratio"], rows)


def _peak(call: Callable[[], object]) -> int:
    """Bytes that a call adds to resident memory at its peak (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    call()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before


def main(*words: str) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    sections = {"masked": masked, "packages": packages, "ablation": ablation, "memory": memory, "_peaks": _peaks}
    unknown = [word for word in words if word not in sections]
    if unknown:
        raise SystemExit(f"expected {list(sections)[:4]}, got {unknown}")
    for section in words or list(sections)[:4]:
        if section in ("masked", "packages", "ablation"):
            keep_memory()
        sections[section]()


if __name__ == "__main__":
    main(*sys.argv[1:])
