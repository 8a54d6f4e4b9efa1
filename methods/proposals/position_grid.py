"""Positions of a vision transformer on another grid of patches, exactly as DINO resamples them."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate


def position_grid(vit: VisionTransformer, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Position embeddings of the prefix tokens and of a grid of patches.

    A grid other than the one that was trained is resampled bicubically by the *factor* (h + 0.1) / n, not to a size:
    the two differ. timm's own resampling moves attention by several thousandths of its maximum.

    Parameters
    ----------
    vit
        A plain vision transformer with learned positions, DINO's on a square grid of n by n patches.
    grid
        Rows and columns of patches (h, w).

    Returns
    -------
    tuple of Tensor
        ``(1, prefix, D)``, prefix 0 where prefix tokens have no position (DINOv2 with registers), and ``(1, h w, D)``.

    Raises
    ------
    ValueError
        A transformer without learned positions, an empty grid.

    References
    ----------
    Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021, public code.

    Examples
    --------
    >>> from methods.networks import build_vit
    >>> [tuple(one.shape) for one in position_grid(build_vit("vit_mini_patch16", input_size=64), (3, 5))]
    [(1, 1, 192), (1, 15, 192)]
    """
    learned = vit.pos_embed
    if learned is None:
        raise ValueError("expected a transformer with learned positions, got one without")
    if min(grid) < 1:
        raise ValueError(f"expected a grid of at least one patch, got {grid}")
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    patches = learned[:, prefix:]
    rows, columns = vit.patch_embed.grid_size
    if grid == (rows, columns):
        return learned[:, :prefix], patches
    image = patches.reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    factor = ((grid[0] + 0.1) / rows, (grid[1] + 0.1) / columns)
    image = interpolate(image, scale_factor=factor, mode="bicubic", align_corners=False)
    return learned[:, :prefix], image.permute(0, 2, 3, 1).flatten(1, 2)
