"""Layer-CAM: every pixel of every channel weighted by its own positive gradient."""

from torch import Tensor

from methods.activation.inputs import check_matched


def layer_cam(activations: Tensor, gradients: Tensor, rectify: bool = True) -> Tensor:
    r"""Map of each pair from its positive gradients, pixel by pixel.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k \mathrm{ReLU}(g_k) \cdot A_k\Big)

    Parameters
    ----------
    activations, gradients
        ``[P, C, h, w]`` of one layer, one row per (image, class) pair. Truncated gradients make it LT-Layer-CAM.
    rectify
        Set negative values of the map to zero; there are none where the layer is a ReLU or a pool behind one.

    Returns
    -------
    Tensor
        ``[P, h, w]``, at least float32, not normalised. A NaN stays a NaN.

    Raises
    ------
    ValueError
        Shapes differ or are not ``[P, C, h, w]``.

    Notes
    -----
    A ReLU in front of a 2x2 maximum has zero gradients at three pixels of four: record the pool for a map without a
    grid.

    References
    ----------
    Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, TIP 2021.

    Examples
    --------
    >>> import torch
    >>> layer_cam(torch.tensor([[[[1.0, 2.0]], [[4.0, 5.0]]]]), torch.tensor([[[[2.0, 0.0]], [[-1.0, 1.0]]]])).tolist()
    [[[2.0, 5.0]]]
    """
    activations, gradients = check_matched(activations, gradients)
    maps = gradients.clamp(min=0).mul_(activations).sum(1)
    return maps.clamp_(min=0) if rectify else maps
