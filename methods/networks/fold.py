"""Batch-norm folding: put a batch norm's scale and shift into the convolution before it."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3


class FoldError(ValueError):
    """Folding would change what a network computes."""


def fold_batch_norms(model: nn.Module, images: Tensor, *, keep: Collection[str] = ()) -> int:
    r"""Fold every batch norm that directly follows a convolution, in place.

    In evaluation mode a batch norm is :math:`z = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta`, which is
    affine, so that the convolution before it can do it. The forward pass stays the same up to rounding. Gradients jump
    at units that rounding moves across the corner of a ReLU.

    Parameters
    ----------
    model
        A network in evaluation mode; its batch norms become :class:`torch.nn.Identity`. Module names stay.
    images
        ``[B, 3, H, W]`` to find out what follows what, and to compare before and after.
    keep
        Names of modules whose output must stay as it is, because it is recorded.

    Returns
    -------
    int
        Batch norms folded.

    Raises
    ------
    FoldError
        The network is in training mode, or its logits change by more than 1e-3 of their largest: a convolution's
        output is used a second time. The network is then unusable.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    >>> fold_batch_norms(net, torch.rand(1, 3, 8, 8)), net[1]
    (1, Identity())
    """
    if model.training:
        raise FoldError("expected a network in evaluation mode: call model.eval() first")
    with torch.no_grad():
        before, pairs = _followers(model, images)
        pairs = {norm: conv for norm, conv in pairs.items() if norm not in keep and conv not in keep}
        for norm, conv in pairs.items():
            fused = fuse_conv_bn_eval(_conv(model, conv), _norm(model, norm))
            model.set_submodule(conv, fused)
            model.set_submodule(norm, nn.Identity())
        after = model(images)
    change = float((after - before).abs().max() / before.abs().max().clamp(min=1e-6))
    if not change <= TOLERANCE:
        raise FoldError(
            f"folding {len(pairs)} batch norms moves the logits by {change:.2g} of their largest, expected at most "
            f"{TOLERANCE}: set runtime.fold_batch_norm to false for this network"
        )
    return len(pairs)


def _followers(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, str]]:
    """Logits, and for each batch norm whose input is a convolution's output, that convolution's name."""
    outputs: dict[int, tuple[str, Tensor]] = {}
    pairs: dict[str, str] = {}

    def made(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[id(output)] = (name, output)  # held on to, so that no other tensor gets its id

        return hook

    def used(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if id(inputs[0]) in outputs:
                pairs[name] = outputs[id(inputs[0])][0]

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if type(module) is nn.Conv2d:
                handles.append(module.register_forward_hook(made(name)))
            elif type(module) is nn.BatchNorm2d:
                handles.append(module.register_forward_pre_hook(used(name)))
        logits: Tensor = model(images)
    finally:
        for handle in handles:
            handle.remove()
    once = {conv for conv in pairs.values() if list(pairs.values()).count(conv) == 1}
    return logits, {norm: conv for norm, conv in pairs.items() if conv in once}


def _conv(model: nn.Module, name: str) -> nn.Conv2d:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Conv2d)
    return module


def _norm(model: nn.Module, name: str) -> nn.BatchNorm2d:
    module = model.get_submodule(name)
    assert isinstance(module, nn.BatchNorm2d)
    return module
