"""Taps: take the outputs of named layers out of one forward pass without disturbing it.

A tap hands a copy on to the next module, so that an in-place ReLU behind the layer overwrites the copy and not the
record. The first tapped output becomes the leaf of the graph: nothing before it is remembered for the backward pass.
"""

import difflib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from methods.activation.errors import LayerCallError, LayerOutputError, OverwrittenLayerError, UnknownLayerError


class Taps:
    """The outputs taken so far, by layer name, in the order of ``layers``.

    Hooks belong to the network, which threads may share; a tap therefore ignores calls from any thread but its own.
    """

    def __init__(self, layers: Sequence[str], dimensions: int | None) -> None:
        self._layers = tuple(dict.fromkeys(layers))
        self._dimensions = dimensions
        self._owner = threading.get_ident()
        self._outputs: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}

    def take(self, name: str, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        """Keep one layer's output; return what the rest of the network is to see in its place."""
        if threading.get_ident() != self._owner:
            return None
        if name in self._outputs:
            raise LayerCallError(
                f"layer {name!r} is called more than once in a forward pass, so it has no single map: record a layer "
                "that is called once, or give every use a module of its own"
            )
        kept = self._checked(name, output)
        # Identity, dropout in evaluation mode and in-place ReLU return their input's own memory, which others may hold.
        if any(_share_memory(kept, value) for value in inputs):
            kept = kept.clone()
        if not kept.requires_grad:
            kept = kept.detach().requires_grad_()
        self._outputs[name] = kept
        self._versions[name] = kept._version
        return kept.clone()

    def _checked(self, name: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise LayerOutputError(f"layer {name!r} returns {type(output).__name__}, expected one tensor")
        if not output.is_floating_point():
            raise LayerOutputError(f"layer {name!r} returns {output.dtype}, expected a floating dtype")
        if self._dimensions is not None and output.ndim != self._dimensions:
            raise LayerOutputError(
                f"layer {name!r} returns shape {tuple(output.shape)}, expected maps [B, C, h, w]; record a "
                "convolution, pooling or activation layer (tokens of a transformer have no map here)"
            )
        return output

    def outputs(self, *, reached_only: bool = False) -> dict[str, Tensor]:
        """What was taken, after the forward pass; layers not reached are an error unless told otherwise."""
        missing = [name for name in self._layers if name not in self._outputs]
        if missing and not reached_only:
            raise LayerCallError(f"the forward pass does not reach layer(s) {missing}: nothing was recorded there")
        for name, version in self._versions.items():
            if self._outputs[name]._version != version:
                raise OverwrittenLayerError(
                    f"the output of layer {name!r} was overwritten in place after it was recorded"
                )
        return {name: self._outputs[name] for name in self._layers if name in self._outputs}


@contextmanager
def tapped(model: nn.Module, layers: Sequence[str], *, dimensions: int | None = 4) -> Iterator[Taps]:
    """Put taps on layers of a network for the length of a ``with`` block, for calls of this thread only.

    Parameters
    ----------
    model
        The network. Its hooks are removed at the end, also after an exception.
    layers
        Names as in ``model.named_modules()``; a name given twice counts once.
    dimensions
        How many dimensions an output must have, or None for any.

    Raises
    ------
    UnknownLayerError
        A name that the network does not have.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    unknown = [name for name in layers if name not in modules]
    if unknown:
        raise UnknownLayerError(_no_such_layer(unknown, [name for name in modules if name]))
    taps = Taps(layers, dimensions)
    handles: list[RemovableHandle] = []
    try:
        for name in dict.fromkeys(layers):
            handles.append(modules[name].register_forward_hook(_hook(taps, name)))
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _hook(taps: Taps, name: str) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        return taps.take(name, inputs, output)

    return hook


@contextmanager
def replaced(model: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the network go on with ``change(output)`` in place of a layer's output, for calls of this thread only."""
    owner = threading.get_ident()

    def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return change(output) if threading.get_ident() == owner else None

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _share_memory(output: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()


def _no_such_layer(unknown: list[str], valid: list[str]) -> str:
    close = [match for name in unknown for match in difflib.get_close_matches(name, valid, n=3)]
    hint = f"; did you mean {close}?" if close else ""
    return f"no layer {unknown} in the network{hint} Its layers are: {', '.join(valid)}"
