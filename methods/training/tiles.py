"""Tiles: cut every image of a batch into a grid, and put maps of the tiles together again.

Puzzle-CAM shows a network the same image whole and in pieces: what it finds in one should be found in the other.
"""

from torch import Tensor


class TileError(ValueError):
    """Images that cannot be cut into the tiles asked for, or tiles that do not make up whole images."""


def tile(images: Tensor, pieces: int) -> Tensor:
    """Cut images into a grid of tiles.

    Parameters
    ----------
    images
        Images or maps, ``[B, C, H, W]``; H and W divisible by ``pieces``.
    pieces
        Tiles a side, 1 or more: Puzzle-CAM's four pieces are 2 a side.

    Returns
    -------
    Tensor
        ``[pieces**2 * B, C, H / pieces, W / pieces]``: the first tile of all images, then the second of all, row by
        row of the grid. With a graph where the images have one; may share memory with them.

    Raises
    ------
    TileError
        Another shape, no piece, or a size that ``pieces`` does not divide.

    References
    ----------
    Jo and Yu, Puzzle-CAM: Improved Localization via Matching Partial and Full Features, ICIP 2021.

    Examples
    --------
    >>> import torch
    >>> tile(torch.arange(8.0).view(1, 1, 2, 4), 2).tolist()
    [[[[0.0, 1.0]]], [[[2.0, 3.0]]], [[[4.0, 5.0]]], [[[6.0, 7.0]]]]
    """
    _require_pieces(pieces)
    if images.ndim != 4:
        raise TileError(f"expected images [B, C, H, W], got shape {tuple(images.shape)}")
    count, channels, height, width = images.shape
    if height % pieces or width % pieces:
        raise TileError(
            f"expected images of a size divisible by {pieces}, got {height} x {width}: "
            f"crop or pad them to {height + -height % pieces} x {width + -width % pieces}"
        )
    grid = images.reshape(count, channels, pieces, height // pieces, pieces, width // pieces)
    return grid.permute(2, 4, 0, 1, 3, 5).reshape(pieces**2 * count, channels, height // pieces, width // pieces)


def merge(tiles: Tensor, pieces: int) -> Tensor:
    """Put tiles together, the inverse of :func:`tile`.

    Parameters
    ----------
    tiles
        What :func:`tile` returned or maps of it, ``[pieces**2 * B, C, h, w]``, of any channels and size.
    pieces
        Tiles a side, 1 or more.

    Returns
    -------
    Tensor
        ``[B, C, pieces * h, pieces * w]``, with a graph where the tiles have one; may share memory with them.

    Raises
    ------
    TileError
        Another shape, no piece, or a number of tiles that makes no whole images.

    Examples
    --------
    >>> import torch
    >>> merge(torch.arange(4.0).view(4, 1, 1, 1), 2).tolist()
    [[[[0.0, 1.0], [2.0, 3.0]]]]
    """
    _require_pieces(pieces)
    if tiles.ndim != 4 or len(tiles) % pieces**2:
        raise TileError(f"expected tiles [n, C, h, w] with n divisible by {pieces**2}, got shape {tuple(tiles.shape)}")
    count, (channels, height, width) = len(tiles) // pieces**2, tiles.shape[1:]
    grid = tiles.reshape(pieces, pieces, count, channels, height, width)
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(count, channels, pieces * height, pieces * width)


def _require_pieces(pieces: int) -> None:
    if pieces < 1:
        raise TileError(f"expected at least one piece a side, got {pieces}")
