"""Attention of a vision transformer's last block: where its image token looks, head by head.

The last block is computed by hand from its own weights, so that fused attention, which never makes the matrix, stays on
everywhere else, nothing is hooked, and several threads may share the network.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate

from methods.proposals.patch_tokens import last_input, projections, require_image_token
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
        Sides that are no multiples of the patch size, images that are not finite, a network without an image token or
        that is no plain vision transformer.

    References
    ----------
    Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> cls_attention(build_vit("vit_mini_patch16", input_size=64), torch.zeros(2, 3, 32, 64)).shape
    torch.Size([2, 3, 2, 4])
    """
    require_image_token(vit)
    tokens, grid = last_input(vit, images)
    query, key, _ = projections(vit.blocks[-1], tokens)
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
    query, key, _ = projections(vit.blocks[-1], last_input(vit, images)[0])
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
        ``[B, 1 + heads, H, W]`` in 0..1.

    Raises
    ------
    ValueError
        As :func:`cls_attention`.

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
    """The maps of :func:`head_maps` from attention that is at hand.

    Other stacks of DiPS: ``mean_and_heads(attention[:, :4], size)`` takes the mean of the first four heads only,
    ``heads=attention.shape[1]`` gives all of them.

    Parameters
    ----------
    attention
        ``[B, heads, h, w]``, not negative.
    size
        Height and width of the maps.
    heads
        How many single heads; all where there are fewer.

    Returns
    -------
    Tensor
        ``[B, 1 + heads, *size]`` in 0..1. A head that looks at no patch at all (its share of attention underflows)
        stays 0.

    Raises
    ------
    ValueError
        Not four dimensions, no head, a negative number of heads, attention that is negative or not finite.

    Examples
    --------
    >>> mean_and_heads(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), (2, 2)).shape
    torch.Size([1, 3, 2, 2])
    """
    if attention.ndim != 4 or attention.shape[1] == 0 or heads < 0:
        raise ValueError(
            f"expected attention [B, heads, h, w] and heads of at least 0, got shape {tuple(attention.shape)} and "
            f"heads={heads}"
        )
    require_finite(attention, "attention")
    if attention.numel() and attention.min() < 0:
        raise ValueError(f"expected attention that is not negative, got {attention.min().item():g}")
    maps = torch.cat([attention.mean(dim=1, keepdim=True), attention[:, :heads]], dim=1)
    maps = interpolate(maps, size, mode="bilinear", align_corners=False)
    highest = maps.amax(dim=(2, 3), keepdim=True)
    return maps / torch.where(highest > 0, highest, 1)
