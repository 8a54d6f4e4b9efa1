"""What each way of computing costs and changes, on a trained network and real maps.

``python -m benchmarks.precision CONFIG WORKSPACE [IMAGES] [key=value ...]`` takes the classifier of a finished run and
makes the maps of its proposals in float32, contiguous, as the reference, then with each option of ``runtime``. Printed
per proposal: the time of recording and maps as a part of the reference's, the largest difference between normalised
maps, the IoU of the Otsu masks with the reference's (mean over maps), and what the mean IoU to the ground truth moves
by. Times are of the processor, one thread.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import interleaved, ratio, show
from configs import load_config
from configs.proposals import Proposal
from configs.schema import Runtime
from methods.activation import enlarge, min_max
from methods.metrics import segmentation_metrics
from methods.refinement import merge_classes, otsu_masks, otsu_thresholds
from storage.models import weights_digest
from storage.workspace import Workspace
from tasks.context import Run
from tasks.images import probe_images, to_input
from tasks.maps import MapMaker, layers_of
from tasks.network import as_computed, inference_network, load_network
from tasks.state import State

REFERENCE = Runtime(device="cpu", channels_last=False)
OPTIONS = {
    "channels_last": Runtime(channels_last=True),
    "channels_last, folded": Runtime(channels_last=True, fold_batch_norm=True),
    "channels_last, compiled": Runtime(channels_last=True, compile=True),
    "bfloat16, channels_last": Runtime(channels_last=True, precision="bfloat16"),
}


class Subject:
    """The images of a finished run that have a ground truth, with its classifier and proposals."""

    def __init__(self, state: State, images: int) -> None:
        if state.model is None or state.truth is None:
            raise SystemExit("expected a finished run with ground truth")
        self.config, self.index = state.run.config, state.index
        self.network = load_network(state.model, weights_digest(state.model), torch.device("cpu"))
        self.proposals: list[Proposal] = [one for one, _ in state.proposals]
        store = state.label_store(state.truth)
        splits = set(self.index.splits) - set(self.config.classifier.train_split)
        rows = [row for row in range(len(self.index)) if self.index.splits[row] in splits and self.index.class_ids[row]]
        rows = [row for row in rows if (store.mask(row) != 255).any()][:images]
        self.truths = [store.mask(row) for row in rows]
        self.rows, size = rows, self.config.classifier.input_size
        source = state.source()
        squares = torch.stack([source.square(row, size) for row in rows])
        self.images = to_input(squares, self.config.classifier.normalise, torch.device("cpu"))
        places = [(place, k) for place, row in enumerate(rows) for k in self.index.class_ids[row]]
        self.pairs = torch.tensor([[place, k - 1] for place, k in places])

    def maker(self, runtime: Runtime) -> MapMaker:
        """The network and the kernel as one option has them."""
        keep = {layer for one in self.proposals for layer in layers_of(self.network, one)}
        probe = probe_images(self.config.classifier.input_size, torch.device("cpu"))
        return MapMaker(inference_network(self.network, runtime, probe, keep), compiled=runtime.compile)

    def maps(self, maker: MapMaker, runtime: Runtime, limit: int | None = None) -> list[Tensor]:
        """Normalised maps of every proposal, ``[P, h, w]`` each."""
        batch, found = self.config.classifier.batch_size, []
        for start in range(0, len(self.rows[:limit]), batch):
            inside = (self.pairs[:, 0] >= start) & (self.pairs[:, 0] < start + batch)
            pairs = self.pairs[inside] - torch.tensor([start, 0])
            images = as_computed(self.images[start : start + batch], runtime)
            found.append(maker(images, pairs, self.proposals)[1])
        return [min_max(torch.cat(parts)) for parts in zip(*found, strict=True)]

    def masks(self, maps: Tensor) -> tuple[list[Tensor], float]:
        """Otsu masks of every pair at its image's size, and the mean IoU of the merged labels to the truth."""
        classes, masks = len(self.index.classes) + 1, []
        counts = np.zeros((classes, classes + 1), np.int64)
        for place, truth in enumerate(self.truths):
            members = self.pairs[:, 0] == place
            large = min_max(enlarge(maps[members], (truth.shape[0], truth.shape[1])))
            masks += list(otsu_masks(large))
            label, _ = merge_classes(large, otsu_thresholds(large), self.pairs[members, 1] + 1)
            judged = truth != 255
            predicted = np.minimum(label.numpy()[judged], classes)
            np.add.at(counts, (truth[judged], predicted), 1)
        return masks, float(segmentation_metrics(counts)["miou"])


def agreement(masks: list[Tensor], others: list[Tensor]) -> float:
    """Mean IoU of masks with others; two empty masks agree."""
    pairs = list(zip(masks, others, strict=True))
    return float(np.mean([float((a & b).sum() / (a | b).sum().clamp(min=1)) if (a | b).any() else 1 for a, b in pairs]))


def measure(subject: Subject) -> list[list[object]]:
    """A row per option and proposal."""
    makers = {name: subject.maker(runtime) for name, runtime in {"float32": REFERENCE, **OPTIONS}.items()}
    runtimes = {"float32": REFERENCE, **OPTIONS}
    few = subject.config.classifier.batch_size
    times = interleaved(
        {name: partial(subject.maps, makers[name], runtimes[name], few) for name in makers}, 3, time.process_time
    )
    base = subject.maps(makers["float32"], REFERENCE)
    decided = [subject.masks(maps) for maps in base]
    rows: list[list[object]] = [
        ["float32", one.title, 1.0, 0.0, 1.0, f"{miou:.4f}"]
        for one, (_, miou) in zip(subject.proposals, decided, strict=True)
    ]
    for name, runtime in OPTIONS.items():
        for one, maps, first, (masks, miou) in zip(
            subject.proposals, subject.maps(makers[name], runtime), base, decided, strict=True
        ):
            made, moved = subject.masks(maps)
            took = ratio(times[name], times["float32"])
            change = float((maps - first).abs().max())
            rows.append([name, one.title, took, change, agreement(made, masks), f"{moved - miou:+.4f}"])
    return rows


def main(config: str, workspace: str, images: str = "64", *overrides: str) -> None:
    """Measure and print."""
    from flows.resume import finished

    torch.set_num_threads(1)
    run = Run(load_config(config, list(overrides)), Workspace(Path(workspace)))
    state = finished(run, ("stage", "classify"))
    if state is None:
        raise SystemExit(f"{workspace}: expected a finished run of {config}; run it first")
    state.proposals = [(one, state.staged) for one in run.config.all_proposals if state.staged]
    subject = Subject(state, int(images))
    header = ["option", "proposal", "time", "largest change", "Otsu IoU", "mIoU to truth"]
    show(f"{subject.network.backbone}, {len(subject.rows)} images, 1 thread", header, measure(subject))


if __name__ == "__main__":
    main(*sys.argv[1:])
