"""Weights into networks: strict about everything but what is meant to differ.

A backbone file may hold the head of the task it was trained for, a classifier file must hold ours. Nothing else may be
missing, left over or of another shape: a network with random layers in it would still run.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from methods.networks.backbones import TORCHVISION
from methods.networks.network import ClassifierNetwork

SHOWN = 4
OPTIONAL = "num_batches_tracked"


class WeightsError(ValueError):
    """Weights that do not fit a network, or that could not be had."""


def load_backbone(network: ClassifierNetwork, state: Mapping[str, Tensor], source: str) -> None:
    """Load a published state dict into everything but the head.

    Parameters
    ----------
    network
        Changed in place; its head keeps its values.
    state
        A plain state dict of torchvision, timm or this project, for any number of classes. Half precision is cast to
        the network's own.
    source
        Where it came from, for messages.

    Raises
    ------
    WeightsError
        A tensor missing, left over, or of another shape. Only the heads (the network's and the published ones of this
        backbone) and ``num_batches_tracked`` are exempt.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> ten, three = build_classifier("small", 10), build_classifier("small", 3)
    >>> load_backbone(three, ten.model.state_dict(), "ten.safetensors")
    """
    exempt = tuple(f"{name}." for name in (network.head, *network.original_heads))
    body = {key: value for key, value in state.items() if not key.startswith(exempt)}
    own = {key: value for key, value in network.model.state_dict().items() if not key.startswith(exempt)}
    _load(network, body, own, source)


def load_classifier(network: ClassifierNetwork, state: Mapping[str, Tensor], source: str) -> None:
    """Load a whole trained classifier, head included.

    Parameters
    ----------
    network, state, source
        As for :func:`load_backbone`.

    Raises
    ------
    WeightsError
        A tensor missing, left over, or of another shape; only ``num_batches_tracked`` may be absent.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> network = build_classifier("small", 3)
    >>> load_classifier(network, network.model.state_dict(), "own.safetensors")
    """
    _load(network, dict(state), network.model.state_dict(), source)


def load_pretrained(network: ClassifierNetwork, name: str) -> None:
    """Load torchvision's weights of a name such as ``IMAGENET1K_V1`` into the backbone.

    Raises
    ------
    WeightsError
        The backbone is not torchvision's, the name is unknown, or the file could not be had.
    """
    if network.backbone not in TORCHVISION:
        raise WeightsError(
            f"torchvision has no weights {name!r} for {network.backbone!r}: give a local file of its state dict"
        )
    from torchvision import models

    known = models.get_model_weights(network.backbone)
    if name not in known.__members__:
        raise WeightsError(
            f"expected torchvision weights of {network.backbone}: {', '.join(known.__members__)}; got {name!r}"
        )
    try:
        state = known[name].get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"could not get torchvision weights {network.backbone} {name} from {known[name].url} ({error}): "
            "download that file where there is a network, and give its path as the weights"
        ) from error
    load_backbone(network, state, f"torchvision:{name}")


def _load(network: ClassifierNetwork, state: dict[str, Tensor], own: dict[str, Tensor], source: str) -> None:
    missing = [key for key in own if key not in state and not key.endswith(OPTIONAL)]
    unexpected = [key for key in state if key not in own and not key.endswith(OPTIONAL)]
    shapes = [
        f"{key} (file {tuple(state[key].shape)}, network {tuple(value.shape)})"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    if any(keys for _, keys in found):
        told = "; ".join(f"{len(keys)} {what}: {_few(keys)}" for what, keys in found if keys)
        raise WeightsError(
            f"weights {source} do not fit {network.backbone} with {network.classes} classes: {told}. "
            "Expected a plain state dict of this backbone; check backbone, head and classes against the file"
        )
    cast = {key: state[key].to(value.dtype) for key, value in own.items() if key in state}
    with torch.no_grad():
        network.model.load_state_dict(cast, strict=False)


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
