"""A network as it must be while it is explained: evaluation mode, no parameter asking for a gradient.

Several threads may explain one network at once. Whether a module trains and whether a parameter wants a gradient
belong to the network and not to a thread, so the first thread in remembers them, and the last thread out puts them
back.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn


@dataclass(slots=True)
class _Hold:
    """One module or parameter that some thread needs frozen, and the flag it had before the first of them."""

    target: nn.Module | nn.Parameter
    before: bool
    holders: int = 1


_lock = threading.Lock()
_holds: dict[int, _Hold] = {}


def _flag(target: nn.Module | nn.Parameter) -> bool:
    return target.training if isinstance(target, nn.Module) else target.requires_grad


def _set_flag(target: nn.Module | nn.Parameter, value: bool) -> None:
    if isinstance(target, nn.Module):
        target.training = value
    else:
        target.requires_grad_(value)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold every module in evaluation mode and every parameter without gradient, and restore both at the end.

    Parameters
    ----------
    model
        The network. Nothing of it is replaced or copied; flags come back also after an exception.

    Notes
    -----
    Training a network in one thread while another explains it is not supported: it would train frozen.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> with frozen(layer):
    ...     print(layer.training, layer.weight.requires_grad)
    False False
    >>> layer.training, layer.weight.requires_grad
    (True, True)
    """
    targets: list[nn.Module | nn.Parameter] = [*model.modules(), *model.parameters()]
    _acquire(targets)
    try:
        yield
    finally:
        _release(targets)


def _acquire(targets: list[nn.Module | nn.Parameter]) -> None:
    with _lock:
        for target in targets:
            hold = _holds.get(id(target))
            if hold is not None:
                hold.holders += 1
                continue
            before = _flag(target)
            _holds[id(target)] = _Hold(target, before)
            if before:
                _set_flag(target, False)


def _release(targets: list[nn.Module | nn.Parameter]) -> None:
    with _lock:
        for target in targets:
            hold = _holds[id(target)]
            hold.holders -= 1
            if hold.holders == 0:
                del _holds[id(target)]
                if hold.before:
                    _set_flag(target, True)
