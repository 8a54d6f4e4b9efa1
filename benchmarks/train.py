"""Where a training step of a decoder spends its time: data, forward, loss, backward; and how long it waits for data.

``python -m benchmarks.train [BACKBONE] [IMAGES]``. JPEG photographs are decoded, stored Layer-CAM maps read, both
cropped to 224 pixels, as in a run; F-CAM's losses with the lattice. ``waiting`` is the share of the step in which the
loop stood still for the next batch; data is loaded meanwhile by two threads. The CRF loss of one image is shown apart,
by kernel (see ``benchmarks.crf_loss`` for more).
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import private_prefect, show

SIDE, BATCH = 224, 8
STEPS = ("stage", "classify", "attend", "propose")
PARTS = ("waiting", "forward", "loss", "backward", "optimiser")


def prepare(folder: Path, backbone: str, images: int) -> Any:
    """A state with photographs, a classifier of one epoch and stored maps."""
    import numpy as np
    from PIL import Image
    from skimage import data

    from flows.commands import run_command

    photographs = [Image.fromarray(one) for one in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())]
    root = folder / "data"
    draw = np.random.default_rng(0)
    for number in range(images):
        kind, photograph = number % 4, photographs[number % 4]
        place = root / f"class{kind}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        x, y = (int(draw.integers(0, max(1, side - 400))) for side in photograph.size)
        photograph.crop((x, y, x + 400, y + 300)).resize((500, 375)).save(place, quality=90)
    config = folder / "config.yaml"
    config.write_text(
        f"dataset: {{format: folder, root: {root}}}\n"
        f"classifier: {{backbone: {backbone}, input_size: {SIDE}, train_split: [all], train: {{epochs: 1}}}}\n"
        "proposals: [{method: layer_cam}]\n"
        "train: [{model: fcam, proposal: layer_cam-S5, split: [all]}]\n"
    )
    status = run_command(str(config), folder / "workspace", None, [], last="propose", strict=False)
    if status:
        raise SystemExit(status)
    from configs import load_config
    from flows.resume import finished
    from storage.workspace import Workspace
    from tasks.context import Run

    return finished(Run(load_config(str(config), []), Workspace(folder / "workspace"), None), STEPS)


def measure(state: Any) -> tuple[dict[str, float], int]:
    """Seconds of one epoch by part, and its steps; the first step, in which caches fill, is left out."""
    from methods.networks import DecoderNetwork
    from tasks.decode import DecoderLearner, new_decoder
    from tasks.engine import Batch, Moment, make_optimiser
    from tasks.fit_decoder import own_classifier
    from tasks.taught import MapTeacher, lesson_batches

    decoder = state.run.config.train[0]
    network = new_decoder(decoder, own_classifier(state))
    assert isinstance(network, DecoderNetwork)
    learner = DecoderLearner(network, decoder, state.run.config.classifier.normalise, channels_last=True)
    learner.train()
    optimiser = make_optimiser(learner, decoder.optimise)
    teacher = MapTeacher(state.proposal(decoder.proposal), list(range(len(state.index))))
    options = {"batch_size": BATCH, "resize": 256, "size": SIDE, "flip": True, "seed": 0}
    batches, steps = lesson_batches(state.source(), teacher, **options)(0)
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, began: float, step: int) -> float:
        now = time.perf_counter()
        if step:
            spent[part] += now - began
        return now

    loop: Iterator[Batch] = iter(batches)
    for step in range(steps):
        began = time.perf_counter()
        tensors = next(loop).tensors
        began = timed("waiting", began, step)
        images = learner.input(tensors)
        logits = learner.network(images).float()
        began = timed("forward", began, step)
        terms = learner.terms(logits, images, tensors, Moment(0, step, step, step / steps))
        loss = torch.stack(list(terms.values())).sum()
        began = timed("loss", began, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        began = timed("backward", began, step)
        optimiser.step()
        timed("optimiser", began, step)
    return spent, steps - 1


def main() -> None:
    """Print the table."""
    backbone = sys.argv[1] if len(sys.argv) > 1 else "squeezenet1_1"
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 96
    with tempfile.TemporaryDirectory() as name, private_prefect(Path(name)):
        spent, steps = measure(prepare(Path(name), backbone, images))
    total = sum(spent.values())
    threads = torch.get_num_threads()
    title = f"F-CAM on {backbone}, batch {BATCH} of {SIDE} pixels, {steps} steps, {threads} threads"
    rows = [[part, f"{1000 * spent[part] / steps:.0f}", f"{100 * spent[part] / total:.1f}"] for part in PARTS]
    show(title, ["part", "ms a step", "% of the step"], [*rows, ["all", f"{1000 * total / steps:.0f}", "100"]])


if __name__ == "__main__":
    main()
