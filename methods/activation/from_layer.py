"""Run a network on many versions of one layer's output, without running what comes before the layer for each.

The image goes up to the layer once, alone; there its output is repeated, one row per version, and the rest of the
network sees these rows. What the rest takes from before the layer (a residual sum) still has one row, which addition
repeats by itself; where something does not (a concatenation), the whole network has to run for every row. Which of both
a network allows is tried out and not guessed.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.activation.halving import is_out_of_memory
from methods.activation.taps import replaced

# How far the logits of a trial may be apart, as a part of the largest: rows of another image or a mean over the rows
# are off by far more than this, other summation orders by far less.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
HALF_TOLERANCE = 5e-2

Version = Callable[[Tensor], Tensor]
"""Changes a layer's output ``[n, C, h, w]`` in place or not, row by row; returns ``[n, C, h, w]``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """How to run a network on versions of one layer's output.

    Attributes
    ----------
    model, layer
        The network, in evaluation mode and without gradients as the caller holds it, and the layer's name.
    shared
        Whether one row may go up to the layer for all versions.
    rows
        How many versions at once take no more memory than a given number of images in the whole network.
    """

    model: nn.Module
    layer: str
    shared: bool
    rows: int

    def __call__(self, image: Tensor, count: int, change: Version) -> Any:
        """What the network returns for ``count`` versions of the layer's output for one image ``[3, H, W]``.

        ``change`` is given a copy ``[count, C, h, w]`` that it may write into.
        """
        inputs = image[None] if self.shared else _repeated(image[None], count)
        with replaced(self.model, self.layer, lambda output: change(_repeated(output, count))):
            return self.model(inputs)


def find_route(model: nn.Module, image: Tensor, layer: str, batch: int) -> Route:
    """Try out whether versions of a layer's output can share the way up to the layer.

    The trial is one shared pass of two versions, the output itself and zeros, against two passes of the whole network.

    Parameters
    ----------
    model
        In evaluation mode and without gradients, as the caller holds it.
    image
        ``[3, H, W]``, preprocessed.
    layer
        Called once in a forward pass, returns maps ``[B, C, h, w]``.
    batch
        How many images the whole network may hold at a time.

    Returns
    -------
    Route
        Not shared and with ``batch`` rows where the trial fails, which is logged.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 2)).eval()
    >>> with torch.no_grad():
    ...     route = find_route(net, torch.rand(3, 10, 10), "1", 4)
    ...     route.shared, route.rows, route(torch.rand(3, 10, 10), 5, lambda output: output.mul_(2)).shape
    (True, 64, torch.Size([5, 2]))
    """
    whole, shared = Route(model, layer, False, batch), Route(model, layer, True, batch)
    with _largest(model, layer) as largest:
        same = whole(image, 1, lambda output: output)
    expected = [same, whole(image, 1, torch.zero_)]
    try:
        found = shared(image, 2, _with_zeros)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        found = f"{type(error).__name__}: {error}".splitlines()[0]
    if not _agree(found, expected):
        reason = found if isinstance(found, str) else "its output differs"
        _log.info("layer %r: what comes before it runs for every version of its output (%s)", layer, reason)
        return whole
    return Route(model, layer, True, batch * max(1, largest.anywhere // max(1, largest.behind)))


def _with_zeros(output: Tensor) -> Tensor:
    output[1] = 0
    return output


def _agree(found: Any, expected: list[Any]) -> bool:
    """Whether both rows are those of the whole passes, up to the order of summation."""
    if not isinstance(found, Tensor) or not all(isinstance(one, Tensor) and len(one) == 1 for one in expected):
        return False
    both = torch.cat(expected)
    if found.shape != both.shape:
        return False
    near = TOLERANCE.get(both.dtype, HALF_TOLERANCE) * float(both.abs().nan_to_num(0, 0).max())
    return bool(torch.allclose(found, both, rtol=0, atol=near, equal_nan=True))


def _repeated(values: Tensor, rows: int) -> Tensor:
    """A copy ``[rows, C, h, w]`` of one row or of as many, in the same memory format."""
    channels_last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return values.expand(rows, *values.shape[1:]).clone(memory_format=layout)


@dataclass
class _Sizes:
    """Numbers in the largest output of one image: of any module, and of those from the layer on."""

    anywhere: int = 0
    behind: int = 0


@contextmanager
def _largest(model: nn.Module, layer: str) -> Iterator[_Sizes]:
    """Measure the outputs of this thread's passes, whose peak of memory goes with the largest."""
    sizes, owner, target = _Sizes(), threading.get_ident(), model.get_submodule(layer)

    def look(module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != owner or not isinstance(output, Tensor) or not len(output):
            return
        numbers = output.numel() // len(output)
        sizes.anywhere = max(sizes.anywhere, numbers)
        if sizes.behind or module is target:
            sizes.behind = max(sizes.behind, numbers)

    handles = [module.register_forward_hook(look) for module in model.modules() if module is not model]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()
