"""Features of a vision transformer's patches: what leaves the last block, or what it compares them by."""

from typing import Any, Literal, get_args

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from methods.proposals.patch_tokens import last_input, projections

Kind = Literal["token", "query", "key", "value"]


def token_features(vit: VisionTransformer, images: Tensor, kind: Kind = "key") -> Tensor:
    """Features of every patch, without the prefix tokens.

    Parameters
    ----------
    vit, images
        As for :func:`methods.proposals.cls_attention`.
    kind
        ``token``: the last block's output after the final norm. ``query``, ``key``, ``value``: the last block's
        projections, heads one after the other; queries without their scale.

    Returns
    -------
    Tensor
        ``[B, D, h, w]``.

    Raises
    ------
    ValueError
        Another kind, or what :func:`methods.proposals.cls_attention` refuses.

    References
    ----------
    Siméoni et al., "Localizing objects with self-supervised transformers and no labels", BMVC 2021.

    Examples
    --------
    >>> import torch
    >>> from methods.networks import build_vit
    >>> token_features(build_vit("vit_mini_patch16", input_size=64), torch.zeros(1, 3, 32, 48)).shape
    torch.Size([1, 192, 2, 3])
    """
    if kind not in get_args(Kind):
        raise ValueError(f"expected one of {', '.join(get_args(Kind))}, got {kind!r}")
    tokens, grid = last_input(vit, images)
    block: Any = vit.blocks[-1]
    found: Tensor
    if kind == "token":
        found = vit.norm(block(tokens))
    else:
        query, key, value = projections(block, tokens)
        chosen = {"query": query / block.attn.scale, "key": key, "value": value}[kind]
        found = chosen.transpose(1, 2).flatten(2)
    return found[:, vit.num_prefix_tokens :].transpose(1, 2).reshape(len(found), -1, *grid)
