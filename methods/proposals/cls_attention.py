"""Attention of a vision transformer's last block: where its image token looks, head by head.

The last block is computed by hand from its own weights, so that fused attention, which never makes the matrix, stays on
everywhere else, nothing is hooked, and several threads may share the network.
"""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate

from methods.proposals.position_grid import position_grid
from methods.refinement.checks import require_finite

HEADS = 4
"""Heads that DiPS uses beside the mean of all."""


def cls_attention(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Attention of the image token to the patches in the last block, after the softmax over all tokens.

    Parameters
    ----------
    vit
        A plain vision transformer with an image token, in evaluation mode.
    images
        ``[B, 3, H, W]`` as the network takes them; H and W multiples of the patch size.

    Returns
    -------
    Tensor
        ``[B, heads, h, w]``, h = H / patch. Prefix tokens are left out, so that a head sums to less than 1.

    Raises
    ------
    ValueError
        Sides that are no multiples of the patch size, images that are not finite, a network without an image token.

    References
    ----------
    Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> cls_attention(build_vit("vit_mini_patch16", input_size=64), torch.zeros(2, 3, 32, 64)).shape
    torch.Size([2, 3, 2, 4])
    """
    if vit.cls_token is None:
        raise ValueError("expected a transformer with an image token, got one without")
    tokens, grid = last_input(vit, images)
    query, key, _ = last_projections(vit, tokens)
    attention = (query[:, :, :1] @ key.transpose(-2, -1)).softmax(dim=-1)
    return attention[:, :, 0, vit.num_prefix_tokens :].reshape(*attention.shape[:2], *grid)


def attention_matrix(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Attention of the last block between all tokens, ``[B, heads, T, T]``; rows sum to 1. See :func:`cls_attention`.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> attention_matrix(build_vit("vit_mini_patch16", input_size=64), torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 3, 5, 5])
    """
    query, key, _ = last_projections(vit, last_input(vit, images)[0])
    return (query @ key.transpose(-2, -1)).softmax(dim=-1)


def head_maps(vit: VisionTransformer, images: Tensor, *, heads: int = HEADS) -> Tensor:
    """Maps that DiPS draws regions from: the mean of all heads, then the first heads, at the size of the images.

    Each map is enlarged (bilinear) and divided by its own maximum; the minimum is not taken off.

    Parameters
    ----------
    vit, images
        As for :func:`cls_attention`.
    heads
        How many single heads; all where the network has fewer.

    Returns
    -------
    Tensor
        ``[B, 1 + heads, H, W]`` in (0, 1].

    References
    ----------
    Murtaza et al., "DiPS: Discriminative pseudo-label sampling with self-supervised transformers", 2023, public code.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> head_maps(build_vit("vit_mini_patch16", input_size=64), torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 4, 32, 32])
    """
    size = (images.shape[-2], images.shape[-1])
    return mean_and_heads(cls_attention(vit, images), size, heads=heads)


def mean_and_heads(attention: Tensor, size: tuple[int, int], *, heads: int = HEADS) -> Tensor:
    """The maps of :func:`head_maps` from attention ``[B, heads, h, w]`` that is at hand.

    Examples
    --------
    >>> mean_and_heads(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), (2, 2)).shape
    torch.Size([1, 3, 2, 2])
    """
    maps = torch.cat([attention.mean(dim=1, keepdim=True), attention[:, :heads]], dim=1)
    maps = interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps / maps.amax(dim=(2, 3), keepdim=True)


def last_input(vit: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens ``[B, T, D]`` that enter the last block, and the grid of patches.

    Raises
    ------
    ValueError
        As :func:`cls_attention`.
    """
    patch = vit.patch_embed.patch_size
    height, width = images.shape[-2:]
    if images.ndim != 4 or height % patch[0] or width % patch[1] or not height or not width:
        raise ValueError(
            f"expected images [B, 3, H, W] with sides that are multiples of {patch[0]}, got {tuple(images.shape)}"
        )
    require_finite(images, "images")
    embedded = vit.patch_embed.proj(images)
    grid = (embedded.shape[2], embedded.shape[3])
    tokens = vit.patch_embed.norm(embedded.flatten(2).transpose(1, 2))
    prefix_positions, positions = position_grid(vit, grid)
    prefix: list[Tensor] = [one for one in (vit.cls_token, vit.reg_token) if one is not None]
    if prefix:
        first = torch.cat(prefix, dim=1)
        if prefix_positions.shape[1]:
            first = first + prefix_positions
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens + positions], dim=1)
    else:
        tokens = tokens + positions
    tokens = vit.norm_pre(vit.patch_drop(vit.pos_drop(tokens)))
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
    return tokens, grid


def last_projections(vit: VisionTransformer, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query (scaled), key and value ``[B, heads, T, D / heads]`` of the last block."""
    block: Any = vit.blocks[-1]
    attention = block.attn
    count, length, _ = tokens.shape
    mixed = attention.qkv(block.norm1(tokens)).reshape(count, length, 3, attention.num_heads, -1)
    query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(query) * attention.scale, attention.k_norm(key), value
