"""The work of a step as bytes for another process: networks move to the device of whoever unpacks them.

What a step computes with was made here, perhaps on a GPU, whose memory means nothing elsewhere. So tensors travel by
way of the CPU, and a device is what ``runtime.device`` means where the parcel is opened.
"""

import io
import pickle
from functools import partial
from typing import Any, NamedTuple

import cloudpickle
import torch
from torch import Tensor, nn

from tasks.context import Work
from tasks.images import pick_device


class Parcel(NamedTuple):
    """A work as bytes; ``network``: it passes images through one."""

    data: bytes
    network: bool


def pack(work: Work, device: str) -> Parcel:
    """A work as bytes; ``device`` is the configuration's wish, ``auto`` for what is there."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, device)
    pickler.dump(work)
    return Parcel(buffer.getvalue(), pickler.network)


def unpack(data: bytes) -> Work:
    """The work of a parcel, its networks on this process's device."""
    work: Work = pickle.loads(data)
    return work


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, device: str) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.device, self.network = device, False

    def reducer_override(self, value: Any) -> Any:
        """How a value is taken apart; called for every one."""
        if isinstance(value, torch.device):
            return pick_device, (self.device,)
        if isinstance(value, nn.Module):
            self.network = True
            reduced: Any = value.__reduce_ex__(2)
            make, arguments, state = reduced[:3]
            return make, arguments, state, None, None, partial(_settle, self.device)
        # Parameters are taken apart into tensors, and their module moves them.
        if type(value) is Tensor and value.device.type != "cpu":
            return _here, (self.device, value.detach().cpu())
        return super().reducer_override(value)


def _settle(device: str, module: nn.Module, state: dict[str, Any]) -> None:
    restore: Any = module.__setstate__
    restore(state)
    module.to(pick_device(device))


def _here(device: str, tensor: Tensor) -> Tensor:
    return tensor.to(pick_device(device))
