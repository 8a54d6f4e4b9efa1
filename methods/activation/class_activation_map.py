"""CAM: channels weighted by the row that the class has in the network's last linear layer."""

from torch import Tensor

from methods.activation.inputs import at_least_float32, weighted_sum


def class_activation_map(activations: Tensor, class_weights: Tensor, rectify: bool = False) -> Tensor:
    r"""Map of each pair from the weights of its class.

    .. math:: M = \sum_k W_{ck} A_k

    Parameters
    ----------
    activations
        ``[P, C, h, w]`` of the layer in front of the mean over space, one row per (image, class) pair.
    class_weights
        ``[P, C]``: for each pair the row of its class in the linear layer (or 1x1 convolution) behind that mean.
    rectify
        Set negative values of the map to zero.

    Returns
    -------
    Tensor
        ``[P, h, w]``, at least float32, not normalised. Without a bias its mean over space is the logit.

    Raises
    ------
    ValueError
        Shapes that do not fit: the head is then no mean over space followed by one linear layer.

    References
    ----------
    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.

    Examples
    --------
    >>> import torch
    >>> class_activation_map(torch.tensor([[[[1.0, 2.0]], [[0.0, 5.0]]]]), torch.tensor([[2.0, -1.0]])).tolist()
    [[[2.0, -1.0]]]
    """
    if activations.ndim != 4 or class_weights.shape != activations.shape[:2]:
        raise ValueError(
            f"expected activations [P, C, h, w] and class weights [P, C], got {tuple(activations.shape)} and "
            f"{tuple(class_weights.shape)}; CAM needs a mean over space followed by one linear layer"
        )
    return weighted_sum(at_least_float32(activations), at_least_float32(class_weights), rectify)
