"""Attention of all blocks times a class map, the baseline of TS-CAM: one says where, the other says what.

Class maps of a transformer are coarse and bleed over the object's parts; the image token's attention, taken over all
blocks, knows its extent but no class.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from methods.proposals.patch_tokens import first_input, projections, require_image_token
from methods.refinement.checks import require_finite


def token_attention(vit: VisionTransformer, images: Tensor) -> Tensor:
    r"""Mean over blocks and heads of the image token's attention to the patches.

    .. math:: A = \frac{1}{L N} \sum_{l=1}^{L} \sum_{n=1}^{N} A^{(l,n)}_{\text{cls}}

    Parameters
    ----------
    vit, images
        As for :func:`methods.proposals.cls_attention`.

    Returns
    -------
    Tensor
        ``[B, h, w]``. Prefix tokens are left out, so that a map sums to less than 1.

    Raises
    ------
    ValueError
        As :func:`methods.proposals.cls_attention`.

    References
    ----------
    Gao et al., "TS-CAM: Token semantic coupled attention map for weakly supervised object localization", ICCV 2021.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> token_attention(build_vit("vit_mini_patch16", input_size=64), torch.zeros(2, 3, 32, 64)).shape
    torch.Size([2, 2, 4])
    """
    require_image_token(vit)
    tokens, grid = first_input(vit, images)
    rows = []
    for block in vit.blocks:
        query, key, _ = projections(block, tokens)
        attention = (query[:, :, :1] @ key.transpose(-2, -1)).softmax(dim=-1)
        rows.append(attention[:, :, 0, vit.num_prefix_tokens :].mean(dim=1))
        tokens = block(tokens)
    return torch.stack(rows).mean(dim=0).reshape(-1, *grid)


def token_attention_map(attention: Tensor, class_maps: Tensor) -> Tensor:
    r"""Couple attention that knows no class with maps of classes.

    .. math:: M_c = A \odot S_c

    Parameters
    ----------
    attention
        ``[B, h, w]``, such as :func:`token_attention` gives.
    class_maps
        ``[B, K, h, w]``, a classifier's scores at every patch.

    Returns
    -------
    Tensor
        ``[B, K, h, w]``, neither rectified nor normalised.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite.

    References
    ----------
    Gao et al., "TS-CAM: Token semantic coupled attention map for weakly supervised object localization", ICCV 2021.

    Examples
    --------
    >>> token_attention_map(torch.tensor([[[0.5, 0.1]]]), torch.tensor([[[[2.0, 3.0]], [[-1.0, 0.0]]]])).tolist()
    [[[[1.0, 0.30000001192092896]], [[-0.5, 0.0]]]]
    """
    if attention.ndim != 3 or class_maps.ndim != 4 or attention.shape != (len(class_maps), *class_maps.shape[2:]):
        raise ValueError(
            f"expected attention [B, h, w] and class maps [B, K, h, w], got shapes {tuple(attention.shape)} and "
            f"{tuple(class_maps.shape)}"
        )
    require_finite(attention, "attention")
    require_finite(class_maps, "class maps")
    return attention[:, None] * class_maps
