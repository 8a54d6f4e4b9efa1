"""Puzzle-CAM losses: an image whole and in tiles has the same classes, at the same places."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.training.tiles import merge

Level = Literal["feature", "cam"]
Distance = Literal["l1", "l2"]
Region = Literal["masking", "selection", "none"]

SMALL = 1e-5


class PuzzleLosses(NamedTuple):
    """The terms, scalars with a graph."""

    class_loss: Tensor
    """Multi-label soft margin of the classes of the whole image."""
    p_class_loss: Tensor
    """The same of the merged tiles."""
    re_loss: Tensor
    """Distance between the maps of the whole image and of its tiles."""
    entropy_loss: Tensor
    """Entropy of the classes of each tile; not part of the published training."""

    def total(self, alpha: float, entropy: float = 0.0) -> Tensor:
        """Sum of the terms, the reconstruction times ``alpha`` and the entropy times ``entropy``."""
        return self.class_loss + self.p_class_loss + alpha * self.re_loss + entropy * self.entropy_loss


def puzzle_losses(
    maps: Tensor,
    tile_maps: Tensor,
    labels: Tensor,
    *,
    pieces: int = 2,
    level: Level = "feature",
    distance: Distance = "l1",
    region: Region = "masking",
) -> PuzzleLosses:
    r"""Losses of class maps of images and of their tiles.

    .. math:: L = \ell(\bar F, Y) + \ell(\bar F', Y) + \alpha L_{re}, \qquad
        L_{re} = \frac{1}{BKhw} \sum \big| F - F' \big| \odot Y

    with class maps F of the images, F' merged from the tiles', means over the grid, and the multi-label soft margin.

    Parameters
    ----------
    maps
        Class maps before pooling, ``[B, K, h, w]`` floating point.
    tile_maps
        Maps of what :func:`~methods.training.tiles.tile` returned of the same images,
        ``[pieces**2 * B, K, h / pieces, w / pieces]``.
    labels
        Classes of the images, ``[B, K]``, 0 or 1.
    pieces
        Tiles a side.
    level
        Compare maps as they are, as published, or as activation maps by :func:`normalised`; in the latter case the
        merged classes come from the normalised maps, too.
    distance
        Absolute or squared difference.
    region
        Where maps are compared. ``masking``: absent classes are 0, but count in the mean. ``selection``: mean over the
        present classes of an image, then over images; one without a class counts as 0. ``none``: all classes.

    Returns
    -------
    PuzzleLosses
        The terms, at least float32. Both sides of the comparison learn.

    Raises
    ------
    ValueError
        Shapes that do not belong together, or an unknown option.
    TileError
        A number of tiles that makes no whole images.

    References
    ----------
    Jo and Yu, Puzzle-CAM: Improved Localization via Matching Partial and Full Features, ICIP 2021.

    Examples
    --------
    >>> maps = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    >>> terms = puzzle_losses(maps, torch.zeros(4, 1, 1, 1), torch.ones(1, 1))
    >>> [round(term.item(), 4) for term in terms]
    [0.4741, 0.6931, 0.5, 0.3466]
    >>> round(terms.total(alpha=4).item(), 4)
    3.1672
    """
    _require_options(level, distance, region)
    merged = merge(tile_maps, pieces)
    if merged.shape != maps.shape or labels.shape != maps.shape[:2]:
        raise ValueError(
            f"expected maps [B, K, h, w], the same of {pieces} x {pieces} tiles, and labels [B, K], got "
            f"{tuple(maps.shape)}, {tuple(tile_maps.shape)} and {tuple(labels.shape)}"
        )
    # Sums of half precision overflow where their means would not.
    exact = torch.promote_types(maps.dtype, torch.float32)
    maps, merged, labels = maps.to(exact), merged.to(exact), labels.to(exact)
    class_loss = F.multilabel_soft_margin_loss(maps.mean(dim=(2, 3)), labels)
    if level == "cam":
        maps, merged = normalised(maps), normalised(merged)
    return PuzzleLosses(
        class_loss,
        F.multilabel_soft_margin_loss(merged.mean(dim=(2, 3)), labels),
        _reconstruction(maps, merged, labels, distance, region),
        _entropy(tile_maps.to(exact).mean(dim=(2, 3))),
    )


def normalised(maps: Tensor) -> Tensor:
    r"""Class maps as activation maps in 0..1.

    .. math:: \hat F = \frac{\max(\max(F, 0) - \epsilon, 0)}{\max_p F_p + \epsilon}, \qquad \epsilon = 10^{-5}

    Parameters
    ----------
    maps
        ``[..., h, w]`` floating point.

    Returns
    -------
    Tensor
        Same shape; 0 everywhere for a map without a positive value.

    Examples
    --------
    >>> normalised(torch.tensor([[-1.0, 2.0, 4.0]])).round(decimals=4).tolist()
    [[0.0, 0.5, 1.0]]
    """
    positive = maps.relu()
    return (positive - SMALL).relu() / (positive.amax(dim=(-2, -1), keepdim=True) + SMALL)


def _reconstruction(maps: Tensor, merged: Tensor, labels: Tensor, distance: Distance, region: Region) -> Tensor:
    gap = (maps - merged).abs() if distance == "l1" else (maps - merged).square()
    if region == "none":
        return gap.mean()
    if region == "masking":
        return (gap * labels[:, :, None, None]).mean()
    present = (gap.mean(dim=(2, 3)) * labels).sum(dim=1)
    return (present / labels.sum(dim=1).clamp(min=1)).mean()


def _entropy(logits: Tensor) -> Tensor:
    """Sum over the classes of one tile, mean over tiles: each class is asked on its own."""
    shares = logits.sigmoid()
    return -(shares * (shares + SMALL).log()).sum(dim=1).mean()


def _require_options(level: str, distance: str, region: str) -> None:
    for name, value, known in (
        ("level", level, get_args(Level)),
        ("distance", distance, get_args(Distance)),
        ("region", region, get_args(Region)),
    ):
        if value not in known:
            raise ValueError(f"expected {name} {', '.join(known)}, got {value!r}")
