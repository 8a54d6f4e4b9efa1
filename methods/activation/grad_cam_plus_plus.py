"""Grad-CAM++: positive gradients weighted by how much of the channel each of them stands for."""

from torch import Tensor

from methods.activation.inputs import check_matched, weighted_sum

EPSILON = 1e-6


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor, rectify: bool = True) -> Tensor:
    r"""Map of each pair from its positive gradients, weighted per pixel.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \quad w_k = \sum_{ij} \alpha_{kij} \mathrm{ReLU}(g_{kij}),
    \quad
        \alpha_{kij} = \frac{g_{kij}^2}{2 g_{kij}^2 + g_{kij}^3 \sum_{ab} A_{kab} + 10^{-6}}

    Parameters
    ----------
    activations, gradients
        ``[P, C, h, w]`` of one layer, one row per (image, class) pair. Truncated gradients make it LT-Grad-CAM++.
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

    Notes
    -----
    This is the published formula. Public packages divide a copy by the denominator, so that it has no effect there.
    The denominator is positive wherever it counts (at positive gradients) if activations are not negative.

    References
    ----------
    Chattopadhay et al., Grad-CAM++: Generalized Gradient-based Visual Explanations, WACV 2018.

    Examples
    --------
    >>> import torch
    >>> grad_cam_plus_plus(torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[1.0, -1.0]]]])).round(decimals=4).tolist()
    [[[0.25, 0.25]]]
    """
    activations, gradients = check_matched(activations, gradients)
    square = gradients.square()
    total = activations.sum((2, 3), keepdim=True)
    alpha = square / (2 * square + total * square * gradients + EPSILON)
    # Written as what to drop: a comparison with a NaN is false, so a NaN is not dropped.
    weights = (alpha * gradients).masked_fill_(gradients <= 0, 0).sum((2, 3))
    return weighted_sum(activations, weights, rectify)
