"""Tokens of a vision transformer on their way: images in, what enters a block, and what a block compares them by.

timm's own forward pass resamples positions its own way and never shows attention. These few steps take its modules one
by one instead, so that nothing is hooked or switched and several threads may share a network.
"""

from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from methods.proposals.position_grid import position_grid
from methods.refinement.checks import require_finite


def first_input(vit: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens that enter the first block, and the grid of patches.

    Parameters
    ----------
    vit
        A plain vision transformer with learned positions.
    images
        ``[B, C, H, W]`` as the network takes them; H and W multiples of the patch size.

    Returns
    -------
    tuple
        ``[B, T, D]``, prefix tokens (image token, registers) first, and (h, w).

    Raises
    ------
    ValueError
        Sides that are no multiples of the patch size (DINO crops; here nothing is left out unsaid), images that are not
        finite, a network that is no plain vision transformer.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> tokens, grid = first_input(build_vit("vit_mini_patch16", input_size=64), torch.zeros(1, 3, 32, 48))
    >>> tokens.shape, grid
    (torch.Size([1, 7, 192]), (2, 3))
    """
    _require_plain(vit)
    down, across = vit.patch_embed.patch_size
    if images.ndim != 4 or min(images.shape[2:]) == 0 or images.shape[2] % down or images.shape[3] % across:
        raise ValueError(
            f"expected images [B, C, H, W] with H a multiple of {down} and W of {across}, got shape "
            f"{tuple(images.shape)}; resize or crop them first"
        )
    require_finite(images, "images")
    embedded = vit.patch_embed.proj(images)
    grid = (embedded.shape[2], embedded.shape[3])
    tokens = vit.patch_embed.norm(embedded.flatten(2).transpose(1, 2))
    prefix_positions, positions = position_grid(vit, grid)
    tokens = tokens + positions
    prefix: list[Tensor] = [one for one in (vit.cls_token, vit.reg_token) if one is not None]
    if prefix:
        first = torch.cat(prefix, dim=1)
        if prefix_positions.shape[1]:
            first = first + prefix_positions
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
    return vit.norm_pre(vit.patch_drop(vit.pos_drop(tokens))), grid


def last_input(vit: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens ``[B, T, D]`` that enter the last block, and the grid of patches; see :func:`first_input`.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> last_input(build_vit("vit_mini_patch16", input_size=64), torch.zeros(1, 3, 32, 48))[0].shape
    torch.Size([1, 7, 192])
    """
    tokens, grid = first_input(vit, images)
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
    return tokens, grid


def projections(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query (scaled), key and value of a block.

    Parameters
    ----------
    block
        One of the blocks of a plain vision transformer.
    tokens
        ``[B, T, D]`` that enter it.

    Returns
    -------
    tuple of Tensor
        ``[B, heads, T, D / heads]`` each, queries and keys normalised where the block does so.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> vit = build_vit("vit_mini_patch16", input_size=64)
    >>> projections(vit.blocks[-1], torch.zeros(1, 7, 192))[0].shape
    torch.Size([1, 3, 7, 64])
    """
    attention = block.attn
    count, length, _ = tokens.shape
    mixed = attention.qkv(block.norm1(tokens)).reshape(count, length, 3, attention.num_heads, attention.head_dim)
    query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(query) * attention.scale, attention.k_norm(key), value


def require_image_token(vit: VisionTransformer) -> None:
    """Refuse a transformer without an image token, which attends to patches as a whole.

    Raises
    ------
    ValueError
        There is none.
    """
    if vit.cls_token is None:
        raise ValueError("expected a transformer with an image token, got one without")


def _require_plain(vit: VisionTransformer) -> None:
    """Blocks that normalise elsewhere or attend in pairs would run, and give maps of something else."""
    if type(vit.patch_embed) is not PatchEmbed:
        raise ValueError(f"expected patches embedded by a convolution, got {type(vit.patch_embed).__name__}")
    for number, block in enumerate(vit.blocks):
        if type(block) is not Block or type(block.attn) is not Attention:
            kinds = f"{type(block).__name__} of {type(getattr(block, 'attn', None)).__name__}"
            raise ValueError(f"expected a plain vision transformer of timm, block {number} is {kinds}")
