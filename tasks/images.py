"""Images of index rows as network input: read, checked against the index, decoded ahead of the computation."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from configs.normalise import Normalise
from storage.index import ImageIndex
from storage.indexed_images import read_row

AHEAD = 2
Loaded = TypeVar("Loaded")


class ImageSource:
    """Reads the images of an index.

    Parameters
    ----------
    root
        Data root.
    index
        The image index.
    max_pixels
        Cap that was in force when the images were staged.
    threads
        How many decode at once.
    """

    def __init__(self, root: Path, index: ImageIndex, max_pixels: int, threads: int = 2) -> None:
        self.root, self.index, self.max_pixels = root, index, max_pixels
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the threads: another process starts its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # There are several such processes on a machine: the default, not what this one was given.
        self.__init__(state["root"], state["index"], state["max_pixels"])  # type: ignore[misc]

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """One image, (H, W, 3) RGB; see :func:`storage.indexed_images.read_row`."""
        return read_row(self.root, self.index, row, self.max_pixels).pixels

    def square(self, row: int, size: int) -> Tensor:
        """One image resized to ``size`` by ``size``, uint8 (3, size, size)."""
        pixels = self.pixels(row)
        if pixels.shape[:2] != (size, size):
            pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def batches(self, rows: Sequence[int], size: int, batch: int) -> Iterator[tuple[list[int], Tensor]]:
        """Rows in groups of ``batch`` with their images uint8 (B, 3, size, size); the next groups decode meanwhile."""
        for group, images in self.groups(rows, batch, lambda row: self.square(row, size)):
            yield group, torch.stack(images)

    def groups(
        self, rows: Sequence[int], batch: int, load: Callable[[int], Loaded]
    ) -> Iterator[tuple[list[int], list[Loaded]]]:
        """Rows in groups of ``batch`` with what ``load`` gives for each; the next groups are loaded meanwhile."""
        groups = [list(rows[start : start + batch]) for start in range(0, len(rows), batch)]
        waiting: deque[list[Future[Loaded]]] = deque()
        for number, group in enumerate(groups):
            for ahead in groups[number + len(waiting) : number + AHEAD]:
                waiting.append([self._pool.submit(load, row) for row in ahead])
            yield group, [future.result() for future in waiting.popleft()]

    def close(self) -> None:
        """End the decoding threads."""
        self._pool.shutdown(cancel_futures=True)


def to_input(images: Tensor, normalise: Normalise, device: torch.device) -> Tensor:
    """Network input from uint8 RGB (B, 3, H, W): channel order, scale, mean and deviation as configured."""
    images = images.to(device).to(torch.float32)
    if normalise.channels == "bgr":
        images = images.flip(1)
    mean = torch.tensor(normalise.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(normalise.std, device=device).view(1, 3, 1, 1)
    return (images / normalise.scale - mean) / std


def probe_images(size: int, device: torch.device) -> Tensor:
    """Two images of noise, float32 (2, 3, size, size), always the same: to ask a network how it is built."""
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def pick_device(wish: str) -> torch.device:
    """The device a run computes on.

    Raises
    ------
    ValueError
        CUDA was asked for and is not there.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise ValueError("runtime.device: expected a CUDA device, torch sees none; use auto or cpu")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")
