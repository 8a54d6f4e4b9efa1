"""Schema of the ``train`` section and its decoders: full-resolution maps learned from a few sampled pixels."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from configs.affinity import Affinity
from configs.dataset import Names, Section
from configs.training import Optimisation


def _odd(side: int) -> int:
    if side % 2 == 0:
        raise ValueError(f"expected an odd side, 1 for none, saw {side}")
    return side


Share = Annotated[float, Field(gt=0, le=1)]
Odd = Annotated[int, Field(ge=1), AfterValidator(_odd)]
"""Side of a square around a pixel."""
Select = Literal["px_ap", "fg_iou_pooled", "max_box_acc"]


class DecoderOptimisation(Optimisation):
    """F-CAM's: stochastic gradient descent at a rate that stays."""

    epochs: int = Field(default=50, ge=1)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0)
    schedule: Literal["constant", "cosine", "step", "poly"] = "constant"


class CrfLoss(Section):
    """Neighbours of like colour should be on the same side. The weight belongs to the kernel."""

    weight: float = Field(default=2e-9, ge=0)
    """0: without it."""
    sigma_rgb: float = Field(default=15.0, gt=0)
    sigma_xy: float = Field(default=100.0, gt=0)
    scale: float = Field(default=1.0, gt=0, le=1)
    kernel: Literal["lattice", "exact", "nystrom"] = "lattice"


class SizeLoss(Section):
    """Both sides should be large, by an extended log-barrier."""

    weight: float = Field(default=0.1, ge=0)
    """0: without it."""
    start: float = Field(default=1.0, gt=0)
    growth: float = Field(default=1.01, ge=1)
    end: float = Field(default=10.0, gt=0)
    """The barrier's t begins at ``start`` and is multiplied by ``growth`` after every epoch or step, up to ``end``."""
    every: Literal["epoch", "step"] = "epoch"


class _Decoder(Section):
    name: str | None = None
    """Shown in tables; default: built from the settings."""
    widths: list[Annotated[int, Field(ge=1)]] | None = None
    """Channels after each block of the decoder, from coarse to fine; none: the first of 256, 128, 64, 32, 16."""
    resize: int | None = Field(default=None, ge=32)
    """Side that training images are resized to before the crop; none: 8/7 of the classifier's input, 256 for 224."""
    flip: bool = True
    crf: CrfLoss = CrfLoss()
    size: SizeLoss = SizeLoss()
    optimise: DecoderOptimisation = DecoderOptimisation()
    split: Names = Field(default=["train"], min_length=1)
    select: Select | None = None
    """Number of the validation split that chooses the epoch; needs ground truth there. None: the last epoch."""
    select_split: str = Field(default="val", min_length=1)

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.name or self._built()

    def _built(self) -> str:
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what is learned."""
        return self.model_dump(mode="json", exclude={"name"})


class Seeds(Section):
    """Pixels drawn anew in every step, as F-CAM does."""

    weight: float = Field(default=1.0, gt=0)
    foreground: int = Field(default=1, ge=0)
    background: int = Field(default=1, ge=0)
    background_share: Share = 0.1
    """Share of the image with the lowest values, from which background is drawn."""
    erosion: Odd = 11
    """Side of the square that the foreground region is eroded with; 1: not at all."""
    dilation: Odd = 3
    """Side of the square around each drawn pixel."""


class FcamDecoder(_Decoder):
    """F-CAM: a decoder on the run's frozen classifier, taught by the maps of one proposal."""

    model: Literal["fcam"]
    proposal: str = Field(min_length=1)
    """Name of the proposal that seeds come from."""
    layers: list[str] | None = None
    """Stages that the decoder looks at; none: all of the classifier's."""
    seeds: Seeds = Seeds()

    def _built(self) -> str:
        return f"fcam-{self.proposal}"


class Regions(Section):
    """Boxes around the parts of attention maps, and how they are ranked."""

    min_size: float = Field(default=0.75, ge=0, le=1)
    """Least share of the image that a box covers; if none does, the largest counts."""
    blur: float = Field(default=0.1, gt=0)
    """Deviation of the blur outside of a box, as a share of the image's side."""
    top: int = Field(default=2, ge=1)
    """Boxes kept of an image, those that the classifier likes best."""


class BoxSeeds(Section):
    """Pixels drawn anew in every step, as DiPS does."""

    weight: float = Field(default=1.0, gt=0)
    foreground: int = Field(default=10, ge=1)
    background: int = Field(default=10, ge=1)
    foreground_share: Share = 0.3
    """Share of the box with the highest values."""
    background_share: Share = 0.3
    """Share of the image with the lowest values."""
    dilation: Odd = 3


class DipsDecoder(_Decoder):
    """DiPS: a U-Net of its own, taught by boxes around the transformer's attention that the classifier likes best."""

    model: Literal["dips"]
    encoder: str = "resnet50"
    """Network whose features the decoder joins; it learns too."""
    weights: str | None = None
    """Of the encoder: a safetensors or pth file, ``torchvision:NAME``; none: the classifier's where it is the same."""
    regions: Regions = Regions()
    seeds: BoxSeeds = BoxSeeds()
    classifier: float = Field(default=0.5, ge=0)
    """Weight of the frozen classifier's loss on the image under the foreground map; 0: without it."""
    size: SizeLoss = SizeLoss(weight=0.0)

    def _built(self) -> str:
        return f"dips-{self.encoder}"


PixelDecoder = FcamDecoder | DipsDecoder
"""Learns a map from sampled pixels; an affinity network learns edges from pairs of them."""
Decoder = Annotated[PixelDecoder | Affinity, Field(discriminator="model")]
