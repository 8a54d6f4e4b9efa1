"""Refinement against its plain formulations: ``python -m benchmarks.refine``, one thread, processor time.

``PAMR`` refines 21 maps of 321 x 321 pixels, 10 iterations. Its floor is the formula read literally: every iteration
gathers all 48 neighbours of all maps into one array and sums it weighted; by slices, and by convolutions with one-hot
kernels, as public code does. ``present`` refines the background and two classes only, which is exact because maps do
not mix. ``SCG`` correlates 8 images of 512 channels on 28 x 28 places; its floor is one image at a time with whole
matrices. All run with malloc told to keep its memory. Peak memory is the most this process had resident (VmHWM, reset
before) above what it had before the call, in a process of its own; SCG there has one image on 56 x 56 places.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from benchmarks.common import interleaved, ratio, resident_bytes, show, spread
from methods.refinement import RECURSEED, correlate_levels, pamr
from methods.refinement.pamr import DILATIONS, DIRECTIONS, colour_affinity
from tasks.malloc import keep_memory

SIDE, CLASSES, PRESENT, ITERATIONS = 321, 21, 3, 10
IMAGES, CHANNELS, GRID, LARGE_GRID = 8, 512, 28, 56


def neighbours(maps: Tensor) -> Tensor:
    """All neighbours of all maps, ``[B, K, 48, H, W]``."""
    height, width = maps.shape[2:]
    found = []
    for distance in DILATIONS:
        padded = pad(maps, [distance] * 4, mode="replicate")
        for y, x in DIRECTIONS:
            found.append(padded[:, :, distance * (1 + y) :, distance * (1 + x) :][:, :, :height, :width])
    return torch.stack(found, dim=2)


def convolved(maps: Tensor) -> Tensor:
    """The same by convolutions, each map a batch of its own."""
    batch, classes, height, width = maps.shape
    kernels = torch.zeros(8, 1, 3, 3)
    for number, (y, x) in enumerate(DIRECTIONS):
        kernels[number, 0, 1 + y, 1 + x] = 1
    flat = maps.reshape(-1, 1, height, width)
    found = [conv2d(pad(flat, [d] * 4, mode="replicate"), kernels, dilation=d) for d in DILATIONS]
    return torch.cat(found, dim=1).view(batch, classes, -1, height, width)


def plain_pamr(images: Tensor, masks: Tensor, gather: Callable[[Tensor], Tensor] = neighbours) -> Tensor:
    """PAMR by gathering at every step."""
    around = neighbours(images)
    centre = images[:, :, None].expand(-1, -1, len(DILATIONS), -1, -1)
    sigma = torch.cat([around, centre], dim=2).std(dim=2, keepdim=True)
    weights = (-(images[:, :, None] - around).abs() / (1e-8 + 0.1 * sigma)).mean(1, keepdim=True).softmax(2)
    for _ in range(ITERATIONS):
        masks = (gather(masks) * weights).sum(2)
    return masks


def plain_correlation(features: Tensor) -> Tensor:
    """Self-correlation of one image after the other, whole matrices at every step."""
    found = []
    for image in features.flatten(2):
        flat = image / (image.norm(dim=0, keepdim=True) + 1e-10)
        s = (flat.T @ flat).clamp(min=0)
        s = torch.where(s < RECURSEED.first_threshold, 0, s)
        first = s / (s.sum(0, keepdim=True) + RECURSEED.epsilon)
        t = s - torch.diag(s.diagonal())
        t = t / (t.sum(0, keepdim=True) + RECURSEED.epsilon)
        higher = t @ t
        higher = higher / (higher.sum(0, keepdim=True) + 1e-10)
        higher = torch.where(higher < RECURSEED.second_threshold / len(s), 0, higher)
        joint = torch.maximum(first, RECURSEED.second_weight * higher)
        found.append(joint / (joint.sum(0, keepdim=True) + 1e-10))
    return torch.stack(found)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Image, maps and features."""
    torch.manual_seed(0)
    features = torch.rand(IMAGES, CHANNELS, GRID, GRID).square()
    return torch.rand(1, 3, SIDE, SIDE), torch.rand(1, CLASSES, SIDE, SIDE), features


def timed() -> None:
    """Times of both methods and their floors."""
    keep_memory()
    image, maps, features = inputs()
    torch.testing.assert_close(pamr(image, maps), plain_pamr(image, maps), rtol=0, atol=1e-5)
    calls: dict[str, Callable[[], object]] = {
        "plain PAMR, slices": lambda: plain_pamr(image, maps),
        "plain PAMR, convolutions": lambda: plain_pamr(image, maps, convolved),
        "PAMR": lambda: pamr(image, maps),
        "PAMR, present": lambda: pamr(image, maps[:, :PRESENT]),
        "its weights alone": lambda: colour_affinity(image, DILATIONS),
        "plain SCG": lambda: plain_correlation(features),
        "SCG": lambda: correlate_levels([features], RECURSEED),
    }
    times = interleaved(calls, 3, time.process_time)
    rows: list[list[object]] = []
    floors = {name: [floor for floor in calls if floor.startswith("plain PAMR")] for name in ("PAMR", "PAMR, present")}
    for name, plain in {**floors, "SCG": ["plain SCG"]}.items():
        for floor in plain:
            took = 1e3 * sorted(times[name])[1]
            gains = ratio(times[floor], times[name])
            rows.append([name, took, floor, 1e3 * sorted(times[floor])[1], gains, spread(times[floor], times[name])])
    rows.append(["PAMR: its weights alone", 1e3 * sorted(times["its weights alone"])[1], "", "", "", ""])
    show("Refinement, 1 thread", ["what", "ms", "floor", "its ms", "times as fast", "range"], rows)


def grown(call: Callable[[], object]) -> float:
    """MiB that a call adds to what is resident at most."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    call()
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return (peak - before) / 2**20


def memory(what: str) -> None:
    """Print the growth of one call; run in a process of its own."""
    torch.set_num_threads(1)
    image, maps, features = inputs()
    large = torch.nn.functional.interpolate(features[:1], (LARGE_GRID, LARGE_GRID))
    pamr(image[..., :9, :9], maps[..., :9, :9])
    correlate_levels([features[:1]], RECURSEED)
    calls: dict[str, Callable[[], object]] = {
        "pamr": lambda: pamr(image, maps),
        "scg": lambda: correlate_levels([large], RECURSEED),
    }
    print(grown(calls[what]))


def main(what: str = "") -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    if what:
        memory(what)
        return
    timed()
    matrix = LARGE_GRID**4 * 4 / 2**20
    rows: list[list[object]] = []
    for name, unit in (("pamr", 0.0), ("scg", matrix)):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.refine", name], capture_output=True, text=True, check=True
        )
        rows.append([name, float(done.stdout), float(done.stdout) / unit if unit else ""])
    show("Peak memory above the inputs, result included", ["what", "MiB", "matrices"], rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
