"""Dense CRF loss, forward and backward: ``python -m benchmarks.crf_loss``, one thread, processor time.

A photograph of 224 x 224 pixels with 2 and with 21 classes, lattice built anew every time, compiled and plain, and by
256 landmarks; on 56 x 56 pixels also exactly, which takes the square of the pixels. ``cosine`` is that of the gradient
with respect to the logits to the exact one on 56 x 56 pixels, ``size`` the ratio of their lengths. Needs numba for the
compiled rows; the first call of a process that finds no machine code kept on disk compiles for some seconds.
"""

import time
from collections.abc import Callable
from unittest.mock import patch

import skimage.data
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from benchmarks.common import interleaved, ratio, seconds, show, spread
from methods.losses import crf_loss
from methods.losses.bilateral import Kernel
from methods.losses.lattice import compiled_kernels

SIDE, SMALL, CLASSES, MANY, ROUNDS = 224, 56, 2, 21, 7


def inputs(side: int, classes: int) -> tuple[Tensor, Tensor]:
    """A photograph, and smooth logits."""
    picture = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float()  # type: ignore[no-untyped-call]
    low = 2 * torch.randn(1, classes, 7, 7, generator=torch.Generator().manual_seed(0))
    return interpolate(picture, (side, side), mode="area"), interpolate(low, (side, side), mode="bilinear")


def gradient(side: int, classes: int, kernel: Kernel, *, compiled: bool = True) -> Callable[[], Tensor]:
    """A call that computes the loss and its gradient with respect to the logits."""
    images, logits = inputs(side, classes)
    logits.requires_grad_()

    def call() -> Tensor:
        loss = crf_loss(images, logits.softmax(1), kernel=kernel, weight=1.0)
        return torch.autograd.grad(loss, logits)[0]

    def plain() -> Tensor:
        with patch("methods.losses.lattice.compiled_kernels", return_value=None):
            return call()

    return call if compiled else plain


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    if compiled_kernels() is None:
        raise SystemExit("expected numba, which the compiled rows measure: install the extra `maskmill[fast]`")
    print(f"first compiled call: {seconds(gradient(SMALL, CLASSES, 'lattice')):.2f} s")
    calls: dict[str, Callable[[], object]] = {}
    for side, classes in ((SIDE, CLASSES), (SIDE, MANY), (SMALL, CLASSES)):
        case = f"{side} x {side}, {classes} classes"
        calls[f"{case}: lattice"] = gradient(side, classes, "lattice")
        calls[f"{case}: lattice, plain"] = gradient(side, classes, "lattice", compiled=False)
        calls[f"{case}: nystrom"] = gradient(side, classes, "nystrom")
    calls[f"{SMALL} x {SMALL}, {CLASSES} classes: exact"] = gradient(SMALL, CLASSES, "exact")
    times = interleaved(calls, ROUNDS, time.process_time)
    rows: list[list[object]] = []
    for name, took in times.items():
        floor = times[f"{name.split(':')[0]}: lattice"]
        rows.append([name, 1e3 * sorted(took)[ROUNDS // 2], ratio(took, floor), spread(took, floor)])
    show("Loss and gradient of an image, 1 thread", ["what", "ms", "times the lattice", "range"], rows)

    exact = gradient(SMALL, CLASSES, "exact")().flatten()
    rows = []
    kernels: tuple[Kernel, ...] = ("lattice", "nystrom")
    for kernel in kernels:
        found = gradient(SMALL, CLASSES, kernel)().flatten()
        rows.append([kernel, cosine_similarity(found, exact, dim=0).item(), (found.norm() / exact.norm()).item()])
    show("Gradient against the exact one", ["kernel", "cosine", "size"], rows)


if __name__ == "__main__":
    main()
