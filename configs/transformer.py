"""Schema of the ``transformer`` section: a vision transformer whose attention is a second source of proposals."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.dataset import Names, Section
from configs.normalise import Normalise
from configs.training import Optimisation

Share = Annotated[float, Field(gt=0, le=1)]
Range = Annotated[list[Share], Field(min_length=2, max_length=2)]
"""From a smallest to a largest share."""


class Pretraining(Optimisation):
    """DINO self-distillation on the run's own images; defaults are those of the paper for one machine."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.04, ge=0)
    weight_decay_end: float = Field(default=0.4, ge=0)
    """Weight decay rises to it as a cosine."""
    warmup_epochs: int = Field(default=10, ge=0)
    global_size: int | None = Field(default=None, ge=16)
    """Side of the two large crops; none: that of the images. Smaller ones make training cheaper by their area."""
    global_scale: Range = Field(default=[0.4, 1.0])
    """Shares of an image's area that the two large crops cover."""
    local_crops: int = Field(default=8, ge=0, le=32)
    local_size: int = Field(default=96, ge=16)
    local_scale: Range = Field(default=[0.05, 0.4])
    vertical_flip: bool = False
    """Flip crops upside down too: where up and down mean nothing, as on surfaces seen from above."""
    jitter: float = Field(default=0.4, ge=0, le=1)
    """Brightness and contrast of a crop change by up to this factor, its saturation by half of it."""
    grey: float = Field(default=0.2, ge=0, le=1)
    """Probability that a crop loses its colour."""
    blur: float = Field(default=0.5, ge=0, le=1)
    """Probability that a crop is blurred."""
    invert: float = Field(default=0.0, ge=0, le=1)
    """Probability that dark and bright change places in a crop. On grey surfaces attention may settle on whatever is
    bright, mostly the background; 0.5 makes that of less use to the student."""
    outputs: int = Field(default=4096, ge=16)
    """Width of the projection head's output."""
    hidden: int = Field(default=2048, ge=16)
    """Width of its inner layers."""
    bottleneck: int = Field(default=256, ge=2)
    """Width before its last layer."""
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.04, gt=0)
    teacher_momentum: float = Field(default=0.996, ge=0, lt=1)
    """Of the teacher's moving average; it rises to 1 as a cosine."""
    centre_momentum: float = Field(default=0.9, ge=0, lt=1)
    freeze_last_epochs: int = Field(default=1, ge=0)
    """Epochs in which the last layer of the head stays as it was drawn."""
    clip_gradient: float = Field(default=3.0, gt=0)
    """Largest norm of each parameter's gradient."""
    split: Names = Field(default=["train"], min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> "Pretraining":
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"pretrain.{name}: expected the smaller share first, saw {low} and {high}")
        return self


class Transformer(Section):
    """The vision transformer: public weights from a file, or trained here without labels."""

    backbone: str = "vit_small_patch16_224.dino"
    """A timm name of a plain vision transformer, or ``vit_mini``: 192 wide, 6 blocks of 3 heads, patches of 16."""
    weights: str | None = None
    """A safetensors or pth file; none only together with ``pretrain``."""
    input_size: int = Field(default=224, ge=32, le=2048)
    """Side of the square that images are resized to; a multiple of the patch size."""
    normalise: Normalise = Normalise()
    batch_size: int = Field(default=16, ge=1)
    """Images per forward pass outside of training."""
    pretrain: Pretraining | None = None

    @model_validator(mode="after")
    def _some_weights(self) -> "Transformer":
        if self.weights is None and self.pretrain is None:
            raise ValueError(
                "transformer: expected weights (a file) or pretrain (self-distillation on your images), saw neither; "
                "a random network's attention shows nothing"
            )
        return self


Head = Literal["mean"] | int
