"""Schema of RecurSeed in the ``train`` section: class maps and a decoder learn from refined class maps."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.dataset import Section
from configs.refine import Correlation
from configs.segmentation import Inference, LabelTraining
from configs.training import Optimisation, Schedule

Weight = Annotated[float, Field(ge=0)]


class RecurSeedOptimisation(Optimisation):
    """Puzzle-CAM's: stochastic gradient descent with a polynomial rate."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=32, ge=2)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    schedule: Schedule = "poly"


class Mix(Section):
    """EdgePredictMix: labelled pixels of an image in front of another one, cut out along edges."""

    start: int = Field(default=15, ge=0)
    """Epoch, from 0, in which mixing begins."""
    edges: Literal["mask", "image"] = "mask"
    """Where edges come from: refined probabilities, or the image."""


class Spread(Correlation):
    """Self-correlation in every step, on the grid of C3."""

    layers: Annotated[list[Literal["S1", "S2", "S3", "S4", "S5"]], Field(min_length=1)] | None = None
    """Stages whose correlations are summed; none: all, as published."""


class RecurSeed(LabelTraining):
    """RecurSeed, single stage: encoder, class maps and a DeepLabv3+ decoder from image-level labels alone."""

    model: Literal["recurseed"]
    start: int = Field(default=5, ge=0)
    """Epoch, from 0, in which the refined maps begin to teach; before it only the classes do."""
    scg: Spread | None = Spread()
    """Refine the class maps by self-correlation; ``true`` for the published constants, ``false`` for none."""
    pamr: bool = True
    """Refine them by the image's colours."""
    pamr_side: int = Field(default=64, ge=8, le=1024)
    """Least longer side of the grid for that; C3 of images of 512 pixels has 64. PAMR compares places that are up to 24
    cells apart: on a grid of 20 it averages over all of the image."""
    foreground: float = Field(default=0.55, ge=0, le=1)
    """A pixel whose best class is above is certain to be that class."""
    background: float = Field(default=0.10, ge=0, le=1)
    """One whose best class is below is certain to be background."""
    classes: Weight = 1.0
    reconstruction: Weight = 1.0
    segmentation: Weight = 1.0
    """Weights of the losses."""
    mix: Mix | None = Mix()
    """None: without mixing."""
    groups: bool = True
    inference: Inference = Inference(gate="labels", stretch=True)
    optimise: RecurSeedOptimisation = RecurSeedOptimisation()

    def _built(self) -> str:
        without = [name for name in ("scg", "pamr") if not getattr(self, name)]
        return "-".join(["recurseed", *(f"no_{name}" for name in without), *(["epm"] if self.mix else [])])

    @field_validator("scg", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: Spread(), False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _in_order(self) -> "RecurSeed":
        if self.background >= self.foreground:
            raise ValueError(f"background: expected less than foreground {self.foreground:g}, saw {self.background:g}")
        if self.mix is not None and self.mix.start < self.start:
            raise ValueError(
                f"mix.start: expected {self.start} or later, where the maps begin to teach, saw {self.mix.start}"
            )
        late = [("start", self.start), *([("mix.start", self.mix.start)] if self.mix else [])]
        for key, epoch in late:
            if epoch >= self.optimise.epochs:
                raise ValueError(f"{key}: expected an epoch before optimise.epochs {self.optimise.epochs}, saw {epoch}")
        return self
