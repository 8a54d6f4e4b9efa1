"""Weights as files: safetensors, or pth read with ``weights_only``; found, hashed, loaded and written whole."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.files import file_digest, write_bytes_atomic
from storage.places import is_local, place, read_whole

if TYPE_CHECKING:
    from torch import Tensor

TORCHVISION = "torchvision:"
_SUFFIXES = {".safetensors", ".pth", ".pt"}


class WeightsError(ValueError):
    """Weights that are absent, of another kind, or for another network."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where starting weights come from: a file, a torchvision name, or nowhere; ``identity`` goes into keys."""

    path: Path | None = None
    torchvision: str | None = None
    identity: str = "none"


def find_weights(text: str | None) -> Weights:
    """Understand ``classifier.weights``.

    Raises
    ------
    WeightsError
        A file that is not there, or of a kind that is not read.
    """
    if text is None or text == "none":
        return Weights()
    if text.startswith(TORCHVISION):
        return Weights(torchvision=text.removeprefix(TORCHVISION), identity=text)
    path = place(text) if "://" in text else Path(text)
    if path.suffix not in _SUFFIXES:
        raise WeightsError(
            f"classifier.weights: expected torchvision:NAME or a file ending in {', '.join(sorted(_SUFFIXES))}, "
            f"saw {text!r}"
        )
    if not path.is_file():
        raise WeightsError(
            f"classifier.weights: no file {text}; download the weights yourself and give the path of the file, "
            "or leave the key out to train from scratch"
        )
    return Weights(path=path, identity=file_digest(path))


def load_state(path: Path) -> "dict[str, Tensor]":
    """Tensors of a weight file by name, on the CPU.

    Raises
    ------
    WeightsError
        The file cannot be read, or holds something other than tensors (it is never unpickled).
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load, load_file

            return dict(load_file(path) if is_local(path) else load(read_whole(path)))
        import torch

        file = path if is_local(path) else io.BytesIO(read_whole(path))
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path}: expected a safetensors file or a pth file of plain tensors, saw {error}"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise WeightsError(f"{path}: expected a mapping of names to tensors, saw {type(state).__name__}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def save_state(path: Path, state: "dict[str, Tensor]") -> None:
    """Write tensors as safetensors, whole or not at all; the same tensors give the same bytes."""
    from safetensors.torch import save

    write_bytes_atomic(path, save({name: value.detach().cpu().contiguous() for name, value in sorted(state.items())}))
