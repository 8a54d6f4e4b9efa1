"""XGrad-CAM: channels weighted by their gradients where the channel is active."""

import torch
from torch import Tensor

from methods.activation.inputs import check_matched, weighted_sum

EPSILON = 1e-7


def xgrad_cam(activations: Tensor, gradients: Tensor, rectify: bool = True) -> Tensor:
    r"""Map of each pair from its gradients averaged with the activations as weights.

    .. math:: M = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad
        w_k = \frac{\sum_{ij} g_{kij} A_{kij}}{\sum_{ij} A_{kij} + 10^{-7}}

    Parameters
    ----------
    activations, gradients
        ``[P, C, h, w]`` of one layer, one row per (image, class) pair. Use a layer whose activations are not negative:
        the sum in the divisor has no other guard. Truncated gradients make it LT-XGrad-CAM.
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
    Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020.

    Examples
    --------
    >>> xgrad_cam(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, 6.0]]]])).round(decimals=4).tolist()
    [[[5.0, 15.0]]]
    """
    activations, gradients = check_matched(activations, gradients)
    weights = torch.einsum("pkhw,pkhw->pk", gradients, activations) / (activations.sum((2, 3)) + EPSILON)
    return weighted_sum(activations, weights, rectify)
