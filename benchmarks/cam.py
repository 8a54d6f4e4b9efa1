"""Class activation maps against the bare pass, and against public packages (``pip install -e '.[bench]'``).

``python -m benchmarks.cam [ours|packages|memory ...] [resnet50|vgg16 ...]``: random weights, batch 8 of 224 pixels, 1
thread, malloc told to keep what it has. Times are of the processor, not of the clock on the wall, each as the median
ratio of interleaved rounds.

ours
    In float32 and bfloat16, channels last. The floor ``bare`` is a forward and one backward pass to the outputs of all
    five stages, no graph before the first of them, in the same precision and memory format: ``six x stages`` 1.10 means
    that the maps of six methods on five stages cost 10 % on top of the pass they all share. ``3 classes`` is a forward
    and three backward passes. ``batches as they come``: images with one to five classes, 60 / 26 / 10 / 4 % with one,
    two, three and more, as in VOC, recorded eight at a time, against the same images sorted by their number of classes.
packages
    Each package called once per method with all stages as its layers, in float32 and the default memory format, its
    maps enlarged; ours are six methods at the size of each layer. ``prepared``: batch norms folded, and 1x1
    convolutions sent to oneDNN.
memory
    Peak of resident memory (``VmHWM``) above what the process holds before, in a process of its own whose malloc gives
    every large block back: a forward without a graph, and Grad-CAM of the last stage.
"""

import gc
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.common import interleaved, ratio, resident_bytes, show, spread
from benchmarks.subject import BATCH, SEVERAL, SIDE, Methods, Subject
from tasks.malloc import keep_memory

REPETITIONS, PACKAGE_REPETITIONS = 5, 1
SWEEP: Methods = tuple(("layer_cam", percentile) for percentile in range(0, 100, 10))
MIX = {1: 39, 2: 16, 3: 6, 4: 2, 5: 1}
"""Images by number of classes."""
GRAD_CAM_PACKAGE = ("GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "HiResCAM")
TORCHCAM_PACKAGE = ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Calls = dict[str, tuple[Callable[[], object], list[str]]]
"""Calls by name, each with the names of its floors."""


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
    show(f"{title}, batch {BATCH} of {SIDE} pixels, 1 thread", header, rows)


def ours(backbone: str) -> None:
    """Our passes against their floors."""
    counts = [count for count, images in MIX.items() for _ in range(images)]
    mixed = random.Random(0).sample(counts, len(counts))
    for name, precision in PRECISIONS.items():
        subject = Subject(backbone, precision)
        one, several = subject.pairs, subject.several
        calls: Calls = {
            "forward": (subject.forward, []),
            "bare": (subject.bare, []),
            "bare, 3 classes": (partial(subject.bare, SEVERAL), []),
            "record": (partial(subject.record, one), ["bare"]),
            "six x stages": (partial(subject.maps, one), ["bare"]),
            "six x stages, compiled": (partial(subject.maps, one, compiled=True), ["bare"]),
            "ten percentiles x stages": (partial(subject.maps, one, SWEEP), ["bare"]),
            "Grad-CAM, last stage": (subject.last_stage, ["forward"]),
            "record, 3 classes": (partial(subject.record, several), ["bare, 3 classes"]),
            "six x stages, 3 classes, compiled": (
                partial(subject.maps, several, compiled=True),
                ["bare, 3 classes"],
            ),
        }
        compare(f"{backbone}, {name}: ours", calls, REPETITIONS)
    buckets: Calls = {
        "batches sorted by number of classes": (partial(subject.batches, counts), []),
        "batches as they come": (partial(subject.batches, mixed), ["batches sorted by number of classes"]),
    }
    compare(f"{backbone}, {name}: {len(counts)} images with 1 to 5 classes", buckets, PACKAGE_REPETITIONS)


def packages(backbone: str) -> None:
    """Public packages called once for each of several methods, against our six."""
    theirs = Subject(backbone, torch.float32, last=False)
    own = {
        "ours, float32": Subject(backbone, torch.float32),
        "ours, float32, prepared": Subject(backbone, torch.float32, prepared=True),
        "ours, bfloat16": Subject(backbone, torch.bfloat16),
        "ours, bfloat16, prepared": Subject(backbone, torch.bfloat16, prepared=True),
    }
    if backbone == "vgg16":
        own = {name: one for name, one in own.items() if "prepared" not in name}
    calls: Calls = {name: (partial(one.maps, one.pairs, compiled=True), []) for name, one in own.items()}
    # As their users have it; a frozen network has no graph for them. Ours freezes it for the length of a call.
    theirs.model.requires_grad_(True)
    calls["grad-cam, 5 methods"] = (partial(call_grad_cam, theirs), list(own))
    calls["torchcam, 4 methods"] = (partial(call_torchcam, theirs), list(own))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(f"{backbone}: packages", calls, PACKAGE_REPETITIONS)


def call_grad_cam(subject: Subject) -> None:
    """The package grad-cam, once per method."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(k) for k in subject.pairs[:, 1].tolist()]
    modules = [subject.model.get_submodule(layer) for layer in subject.layers]
    for method in GRAD_CAM_PACKAGE:
        with getattr(pytorch_grad_cam, method)(model=subject.model, target_layers=modules) as made:
            made(input_tensor=subject.images, targets=targets)


def call_torchcam(subject: Subject) -> None:
    """The package torchcam, once per method."""
    import torchcam.methods

    for method in TORCHCAM_PACKAGE:
        images = subject.images.clone().requires_grad_()
        with getattr(torchcam.methods, method)(subject.model, target_layer=subject.layers) as made:
            made(subject.pairs[:, 1].tolist(), subject.model(images))


def memory(backbone: str) -> None:
    """Peaks of memory, measured in a process of their own."""
    # Above 64 KiB, malloc then maps every block of its own and gives it back, so that peaks show in resident memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "benchmarks.cam", "_peaks", backbone], env=environment, check=True)


def _peaks(backbone: str) -> None:
    for name, precision in PRECISIONS.items():
        subject = Subject(backbone, precision)
        floor, took = ([_peak(call) for _ in range(3)][-1] for call in (subject.forward, subject.last_stage))
        rows: list[list[object]] = [["Grad-CAM, last stage", took / 2**20, floor / 2**20, took / floor]]
        show(f"{backbone}, {name}: peak memory", ["what", "MiB", "forward MiB", "ratio"], rows)


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
    sections = {"ours": ours, "packages": packages, "memory": memory, "_peaks": _peaks}
    unknown = [word for word in words if word not in sections and word not in ("resnet50", "vgg16")]
    if unknown:
        raise SystemExit(f"expected {list(sections)[:3]}, resnet50 or vgg16, got {unknown}")
    for backbone in [word for word in words if word not in sections] or ("resnet50", "vgg16"):
        for section in [word for word in words if word in sections] or list(sections)[:3]:
            if section in ("ours", "packages"):
                keep_memory()
            sections[section](backbone)


if __name__ == "__main__":
    main(*sys.argv[1:])
