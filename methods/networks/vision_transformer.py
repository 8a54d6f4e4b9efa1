"""Vision transformers of timm, and two small ones that can be trained without a machine full of GPUs."""

from collections.abc import Mapping
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from methods.networks.weights import WeightsError
from methods.proposals.patch_tokens import last_input, require_image_token

MINI: dict[str, dict[str, Any]] = {
    "vit_mini_patch16": {"patch_size": 16, "embed_dim": 192, "depth": 6, "num_heads": 3},
    "vit_mini_patch8": {"patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3},
}
_HEADS = ("head.", "fc_norm.", "head_drop.")


def build_vit(name: str, weights: Mapping[str, Tensor] | None = None, *, input_size: int = 224) -> VisionTransformer:
    """Build a plain vision transformer without a classification head; nothing is downloaded.

    Parameters
    ----------
    name
        A timm name (``vit_small_patch16_224.dino``, ``vit_small_patch14_reg4_dinov2`` …), ``vit_mini_patch16`` or
        ``vit_mini_patch8``: 192 wide, 6 blocks of 3 heads.
    weights
        A state dict of timm or of DINO's own release (``backbone.`` in front of every name); weights of heads are left
        out. None: random weights.
    input_size
        Side of the images that the positions of a mini transformer are made for. Others keep those they were published
        with; :func:`methods.proposals.cls_attention` fits them to any image.

    Returns
    -------
    VisionTransformer
        In evaluation mode.

    Raises
    ------
    ValueError
        An unknown name, or a network that is no plain vision transformer.
    WeightsError
        Weights of another network; the message names what is missing and what is too much.

    References
    ----------
    Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021.

    Examples
    --------
    >>> vit = build_vit("vit_mini_patch16", input_size=64)
    >>> vit.embed_dim, vit.pos_embed.shape[1]
    (192, 17)
    """
    vit = _build(name, input_size)
    if weights is not None:
        _load(vit, weights, name)
    vit.eval()
    return vit


def cls_token(vit: VisionTransformer, images: Tensor) -> Tensor:
    """What the image token has become after the last block and the final norm.

    Parameters
    ----------
    vit
        A plain vision transformer with an image token. Its positions are fitted to the images as
        :func:`methods.proposals.position_grid` does, so that crops of any size may be given.
    images
        ``[B, 3, H, W]`` as the network takes them; H and W multiples of the patch size.

    Returns
    -------
    Tensor
        ``[B, D]``.

    Raises
    ------
    ValueError
        As :func:`methods.proposals.cls_attention`.

    Examples
    --------
    >>> import torch
    >>> cls_token(build_vit("vit_mini_patch16", input_size=64), torch.zeros(2, 3, 32, 48)).shape
    torch.Size([2, 192])
    """
    require_image_token(vit)
    token: Tensor = vit.norm(vit.blocks[-1](last_input(vit, images)[0])[:, 0])
    return token


def _build(name: str, input_size: int) -> VisionTransformer:
    if name in MINI:
        return VisionTransformer(img_size=input_size, num_classes=0, **MINI[name])
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"expected a timm name or one of {', '.join(MINI)}, got {name!r}")
    try:
        vit = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise ValueError(f"expected a timm name, got {name!r}: {error}") from error
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"expected a plain vision transformer, {name} is a {type(vit).__name__}")
    return vit


def _load(vit: VisionTransformer, weights: Mapping[str, Tensor], name: str) -> None:
    bare = {key.removeprefix("backbone."): value for key, value in weights.items()}
    state = {key: value for key, value in bare.items() if not key.startswith(_HEADS)}
    own = vit.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or extra or shapes:
        parts = [("missing", missing), ("unexpected", extra), ("of another shape", sorted(shapes))]
        told = "; ".join(f"{what}: {', '.join(keys[:4])} ({len(keys)})" for what, keys in parts if keys)
        raise WeightsError(f"expected the weights of {name}, saw others: {told}")
    vit.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})
