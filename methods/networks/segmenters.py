"""Segmentation networks from their name, on the classifier that a pipeline already has."""

from torch import Tensor, nn

from methods.networks.aspp import WIDTH
from methods.networks.decoder import WIDTHS, Decoder, DecoderHead
from methods.networks.deeplab_v3_plus import DeepLabV3Plus
from methods.networks.encoder import SMALLEST, Encoder
from methods.networks.network import ClassifierNetwork

SEGMENTERS = ("deeplabv3plus", "deeplabv3_resnet50", "unet")
"""Names that :func:`build_segmenter` knows."""


class SegmentationUNet(nn.Module):
    """U-Net with one output a class, in which everything learns: the parts of F-CAM's, which has two outputs.

    Built in evaluation mode, as classifiers are.

    Parameters
    ----------
    network
        Classifier whose model becomes the encoder; it is not copied. Its own head is unused and keeps its values.
    classes
        Classes without the background, at least 1.
    width
        Channels after the first block of the decoder, on the deepest feature; every block has half of the one before.

    Raises
    ------
    ValueError
        No class, or no channel.
    EncoderError
        Features that cannot be joined.

    References
    ----------
    Ronneberger et al., U-Net, 2015.

    Examples
    --------
    >>> import torch
    >>> from methods.networks import build_classifier
    >>> SegmentationUNet(build_classifier("small", 3), 3, width=32)(torch.zeros(1, 3, 45, 64)).shape
    torch.Size([1, 4, 45, 64])
    """

    def __init__(self, network: ClassifierNetwork, classes: int, *, width: int = WIDTH) -> None:
        super().__init__()
        if classes < 1 or width < 1:
            raise ValueError(f"expected at least one class and a positive width, got {classes} and {width}")
        self.encoder = Encoder(network, frozen=False)
        blocks = min(len(self.encoder.channels) - 1, len(WIDTHS))
        self.decoder = Decoder(self.encoder.channels, [max(width >> block, 1) for block in range(blocks)])
        self.head = DecoderHead(self.decoder.widths[-1], classes + 1)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K + 1, H, W]`` of images ``[B, 3, H, W]``, background first, of 32 pixels a side and more."""
        logits: Tensor = self.head(self.decoder(self.encoder(images)), size=images.shape[-2:])
        return logits


class TorchvisionDeepLabV3(nn.Module):
    """DeepLabv3 of torchvision with a ResNet50 of stride 8, returning its logits alone.

    Built in evaluation mode, as classifiers are. Its batch norms need two images in training.

    Parameters
    ----------
    network
        A ResNet50's weights are copied; of any other network nothing is taken, and training starts from scratch.
    classes
        Classes without the background, at least 1.

    Attributes
    ----------
    inherited
        Whether the encoder began with the weights of ``network``.

    Raises
    ------
    ValueError
        No class.

    References
    ----------
    Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017.

    Examples
    --------
    >>> import torch
    >>> from methods.networks import build_classifier
    >>> network = TorchvisionDeepLabV3(build_classifier("resnet50", 2), 2)
    >>> network(torch.zeros(1, 3, 45, 33)).shape, network.inherited
    (torch.Size([1, 3, 45, 33]), True)
    """

    def __init__(self, network: ClassifierNetwork, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"expected at least one class, got {classes}")
        from torchvision.models.segmentation import deeplabv3_resnet50

        self.model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes + 1)
        self.inherited = network.backbone == "resnet50"
        if self.inherited:
            known = self.model.backbone.state_dict()
            found = network.model.state_dict()
            # All that the encoder has, strictly; the classifier's pooling and head stay behind.
            self.model.backbone.load_state_dict({name: found[name] for name in known if name in found})
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Parameters
        ----------
        images
            ``[B, 3, H, W]`` as a ResNet50 takes them, of any size from 32 pixels a side on.

        Returns
        -------
        Tensor
            ``[B, K + 1, H, W]``, background first.

        Raises
        ------
        ValueError
            Another shape, images that are not finite, or one image alone in training.
        TypeError
            Images that are not floating point.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST:
            raise ValueError(
                f"expected images [B, 3, H, W] of at least {SMALLEST} pixels a side, got shape {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise TypeError(f"expected floating point images, got {images.dtype}")
        if not images.isfinite().all():
            raise ValueError("expected finite images, got values that are NaN or infinite")
        if self.training and len(images) < 2:
            raise ValueError(
                "expected two images or more in training, got 1: the batch norm of the image's mean needs them; "
                "leave the last incomplete batch out, or use deeplabv3plus"
            )
        logits: Tensor = self.model(images)["out"]
        return logits


def build_segmenter(name: str, network: ClassifierNetwork, classes: int, *, width: int = WIDTH) -> nn.Module:
    """Build a segmentation network, in evaluation mode.

    Parameters
    ----------
    name
        ``deeplabv3plus``: :class:`~methods.networks.deeplab_v3_plus.DeepLabV3Plus` on any classifier.
        ``unet``: :class:`SegmentationUNet` on any classifier.
        ``deeplabv3_resnet50``: :class:`TorchvisionDeepLabV3`, which takes the weights of a ResNet50 and nothing else.
    network
        Classifier to begin with. The first two make its model their encoder, without a copy.
    classes
        Classes K without the background, at least 1.
    width
        Channels of the decoder, a multiple of 8 for ``deeplabv3plus``; torchvision's has 256 always.

    Returns
    -------
    nn.Module
        Maps images ``[B, 3, H, W]`` of any size from 32 pixels a side on to logits ``[B, K + 1, H, W]``, background
        first.

    Raises
    ------
    ValueError
        An unknown name, no class, or another width.
    EncoderError
        A classifier whose features cannot be joined.

    Examples
    --------
    >>> import torch
    >>> from methods.networks import build_classifier
    >>> network = build_segmenter("unet", build_classifier("small", 3), 3)
    >>> network(torch.zeros(2, 3, 40, 50)).shape
    torch.Size([2, 4, 40, 50])
    """
    if name == "deeplabv3plus":
        return DeepLabV3Plus(network, classes, width=width)
    if name == "unet":
        return SegmentationUNet(network, classes, width=width)
    if name != "deeplabv3_resnet50":
        raise ValueError(f"expected a segmenter of {', '.join(SEGMENTERS)}, got {name!r}")
    if width != WIDTH:
        raise ValueError(f"expected width {WIDTH} for deeplabv3_resnet50, which torchvision fixes, got {width}")
    return TorchvisionDeepLabV3(network, classes)


def new_parts(model: nn.Module) -> list[str]:
    """Names of the modules that have not been trained, all but the encoder.

    Parameters
    ----------
    model
        What :func:`build_segmenter` built, or any other module with an
        :class:`~methods.networks.encoder.Encoder` inside.

    Returns
    -------
    list of str
        As in ``model.named_modules()``, for :func:`~methods.training.poly.parameter_groups`; the largest modules that
        hold no encoder. The model itself, ``""``, where it has no encoder that began with weights of a classifier.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> new_parts(build_segmenter("unet", build_classifier("small", 3), 3))
    ['decoder', 'head']
    """
    trained: set[nn.Module] = {one for one in model.modules() if isinstance(one, Encoder)}
    trained |= {
        one.model.backbone for one in model.modules() if isinstance(one, TorchvisionDeepLabV3) and one.inherited
    }
    return _without(model, trained, "")


def _without(model: nn.Module, trained: set[nn.Module], name: str) -> list[str]:
    if model in trained or next(model.parameters(), None) is None:
        return []
    if trained.isdisjoint(model.modules()):
        return [name]
    prefix = f"{name}." if name else ""
    return [part for own, child in model.named_children() for part in _without(child, trained, prefix + own)]
