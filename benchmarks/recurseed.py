"""A step of RecurSeed against plain training of the same network: ``python -m benchmarks.recurseed``.

Eight images of 320 x 320 pixels, 20 classes and background, ResNet50 of stride 16 with class maps and DeepLabv3+, one
thread. The floor, ``plain``, learns the classes and labels that are given: one pass forward and back, and a step of the
optimiser. ``recurseed`` makes its targets beside; ``mixed`` makes labels by edges, too, and learns from a second,
mixed batch; its floor is ``plain`` on 16 images. Every step runs in a process of its own: processor time, and the most
that was resident (VmHWM, reset before) above what was resident before the step. Variants in turn, medians of ratios.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import ratio, resident_bytes, show, spread
from configs.recurseed import Mix, RecurSeed
from methods.losses import partial_cross_entropy
from methods.networks import build_classifier, keep_stride
from methods.networks.joint_network import JointNetwork
from tasks.engine import Moment, Terms, make_optimiser
from tasks.malloc import keep_memory
from tasks.recurseed import RecurSeedLearner

BATCH, SIDE, CLASSES = 8, 320, 20
FLOORS = {"recurseed": "plain", "mixed": "plain, 16 images"}
VARIANTS = ("plain", "plain, 16 images", "recurseed", "mixed")


def learner() -> RecurSeedLearner:
    """The published network with random weights."""
    torch.manual_seed(0)
    network = build_classifier("resnet50", CLASSES)
    keep_stride(network, ["S5"])
    return RecurSeedLearner(JointNetwork(network), RecurSeed(model="recurseed", start=0, mix=Mix(start=1)))


def batch(images: int, side: int = SIDE) -> dict[str, Tensor]:
    """Images with one to three classes, and labels in blocks."""
    torch.manual_seed(1)
    pixels = torch.randint(256, (images, 3, side // 16, side // 16), dtype=torch.uint8)
    pixels = pixels.repeat_interleave(16, 2).repeat_interleave(16, 3)
    targets = torch.zeros(images, CLASSES)
    for row in range(images):
        targets[row, torch.randperm(CLASSES)[: 1 + row % 3]] = 1
    labels = torch.randint(CLASSES + 1, (images, side // 16, side // 16), dtype=torch.uint8)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return {"images": pixels / 128 - 1, "pixels": pixels, "targets": targets, "labels": labels}


def plain(made: RecurSeedLearner, data: dict[str, Tensor]) -> Terms:
    """Losses of the classes and of labels that are given."""
    found = made.network(data["images"])
    return {
        "classes": torch.nn.functional.multilabel_soft_margin_loss(found.class_logits, data["targets"]),
        "labels": partial_cross_entropy(found.logits, data["labels"].long(), ignore=255),
    }


def step(variant: str) -> tuple[float, float]:
    """Processor seconds of one step, and the MiB that it adds to what is resident at most."""
    made = learner()
    made.train()
    optimiser = make_optimiser(made, made.settings.optimise)
    data = batch(2 * BATCH if "16" in variant else BATCH)
    losses: Callable[[dict[str, Tensor]], Terms] = lambda given: plain(made, given)  # noqa: E731
    if not variant.startswith("plain"):
        losses = lambda given: made(given, Moment(int(variant == "mixed"), 0, 0, 0.0))  # noqa: E731

    def run(given: dict[str, Tensor]) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses(given).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    run(batch(2, 64))
    optimiser.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident_bytes(), time.process_time()
    run(data)
    took = time.process_time() - began
    status = Path("/proc/self/status").read_text()
    return took, (int(status.split("VmHWM:")[1].split()[0]) * 1024 - before) / 2**20


def main(variant: str = "", rounds: int = 3) -> None:
    """Measure and print; with a variant, that alone."""
    torch.set_num_threads(1)
    keep_memory()
    if variant:
        print(*step(variant))
        return
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for turn in range(rounds):
        for name in VARIANTS[:: 1 if turn % 2 else -1]:
            command = [sys.executable, "-m", "benchmarks.recurseed", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, added = map(float, done.stdout.split())
            found[name].append((seconds, added))
    rows: list[list[object]] = []
    for name in VARIANTS:
        times, memory = ([one[kind] for one in found[name]] for kind in (0, 1))
        row: list[object] = [name, statistics.median(times), statistics.median(memory)]
        if floor := FLOORS.get(name):
            below = [one[0] for one in found[floor]]
            row += [floor, ratio(times, below), spread(times, below), ratio(memory, [one[1] for one in found[floor]])]
        rows.append(row + [""] * (7 - len(row)))
    show("One step, 1 thread", ["what", "s", "MiB", "floor", "times its time", "range", "its memory"], rows)


if __name__ == "__main__":
    main("".join(sys.argv[1:2]))
