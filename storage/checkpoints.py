"""Checkpoints of a training: written whole after every epoch, read without unpickling anything but tensors.

The file begins with the SHA-256 of the rest: torch reads a tensor with a flipped bit without a word.
"""

import io
from pathlib import Path
from typing import Any

from storage.files import digest, write_bytes_atomic
from storage.models import is_saved
from storage.places import read_whole
from storage.writing import remove_file

CHECKPOINT = "checkpoint.pt"
"""Its name in the folder of a model."""
_DIGITS = 64


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, replacing the one before it."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    write_bytes_atomic(path, digest(data).encode() + data)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint, or None where there is none.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    import torch

    if not path.exists():
        return None
    try:
        data = read_whole(path)
        if digest(data[_DIGITS:]).encode() != data[:_DIGITS]:
            raise ValueError("content and digest that disagree")
        state = torch.load(io.BytesIO(data[_DIGITS:]), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: expected a checkpoint, saw {error}; delete it to start anew") from error
    return dict(state)


def remove_checkpoint(path: Path) -> None:
    """Remove the checkpoint of a finished training."""
    if path.exists():
        remove_file(path)


def sweep_checkpoints(models: Path) -> list[Path]:
    """Remove the checkpoints of models that are whole, whose training was killed between its record and the removal.

    Parameters
    ----------
    models
        Folder of all models of a workspace.

    Returns
    -------
    list of Path
        What was removed.
    """
    left = [path for path in models.glob(f"*/{CHECKPOINT}") if is_saved(path.parent)]
    for path in left:
        remove_checkpoint(path)
    return left
