"""Grad-CAM: channels weighted by their mean gradient."""

from torch import Tensor

from methods.activation.inputs import check_matched, weighted_sum


def grad_cam(activations: Tensor, gradients: Tensor, rectify: bool = True) -> Tensor:
    r"""Map of each pair from its mean gradient per channel.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad w_k = \frac{1}{hw} \sum_{ij} g_{kij}

    Parameters
    ----------
    activations, gradients
        ``[P, C, h, w]`` of one layer, one row per (image, class) pair. Truncated gradients make it LT-Grad-CAM; the
        divisor still counts all pixels.
    rectify
        Set negative values of the map to zero.

    Returns
    -------
    Tensor
        ``[P, h, w]``, at least float32, not normalised. A NaN stays a NaN.

    Raises
    ------
    ValueError
        Shapes differ or are not ``[P, C, h, w]``.

    References
    ----------
    Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017.

    Examples
    --------
    >>> import torch
    >>> grad_cam(torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]]), torch.tensor([[[[2.0, 0.0]], [[-1.0, 0.0]]]])).tolist()
    [[[0.0, 2.0]]]
    """
    activations, gradients = check_matched(activations, gradients)
    return weighted_sum(activations, gradients.mean((2, 3)), rectify)
