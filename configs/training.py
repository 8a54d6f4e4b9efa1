"""Schema of trainings: what every training of the project may say of its optimiser, schedule and end."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.dataset import Section

Positive = Annotated[float, Field(gt=0)]
Schedule = Literal["constant", "cosine", "step", "poly"]


class Optimisation(Section):
    """Optimiser, learning rate and length of a training."""

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Images a step, over all processes."""
    optimiser: Literal["sgd", "adamw"] = "adamw"
    """``sgd`` is Nesterov's."""
    learning_rate: Positive = 1e-3
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of ``sgd``."""
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Schedule = "cosine"
    """How the learning rate falls: to zero as a cosine, by ``gamma`` every ``step_epochs``, as (1 - t)^``power``."""
    step_epochs: int = Field(default=15, ge=1)
    gamma: float = Field(default=0.1, gt=0, le=1)
    power: Positive = 0.9
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs in which the learning rate rises from zero."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass: bfloat16 is mixed precision, weights and losses stay float32."""
    patience: int | None = Field(default=None, ge=1)
    """End after so many epochs without a better validation; none: train all epochs."""
    processes: int = Field(default=1, ge=1, le=64)
    """Processes that share a batch, one to a GPU (torch's DistributedDataParallel)."""
    seed: int = Field(default=0, ge=0)


class Puzzle(Section):
    """Puzzle-CAM: an image whole and in pieces is to have the same classes, at the same places."""

    pieces: int = Field(default=2, ge=2, le=16)
    """Pieces a side; has to divide the classifier's ``input_size``."""
    alpha: float = Field(default=4.0, ge=0)
    """Weight of the reconstruction, the distance between the maps of the whole image and of its pieces."""
    rise: float = Field(default=0.5, ge=0, le=1)
    """Share of the training in which alpha rises from zero."""
    level: Literal["feature", "cam"] = "feature"
    """Compare class maps as they are, as published, or as activation maps in 0..1."""
    distance: Literal["l1", "l2"] = "l1"
    region: Literal["masking", "selection", "none"] = "masking"
    """Compare the maps of an image's own classes (``masking``: the mean counts the others as zero; ``selection``: the
    mean over its own), or all."""
    entropy: float = Field(default=0.0, ge=0)
    """Weight of the entropy of each piece's classes; 0 as published."""


class Training(Optimisation):
    """Settings of the classifier's training."""

    augment: bool = True
    """Random flips and a random crop; has no effect on a frozen backbone, whose features are computed once."""
    vertical_flip: bool = False
    balance: bool = True
    """Weigh classes against their frequency; has no effect on ``puzzle``, whose losses weigh all alike."""
    puzzle: Puzzle | None = None
    """Train by Puzzle-CAM; none: by the classification loss alone."""
    groups: bool = False
    """Learning rates as IRN and Puzzle-CAM: biases twice that of weights and without decay, the head ten times that of
    the backbone."""
    compat: bool = False
    """Repeat the published accident of Puzzle-CAM and IRN: ``sgd`` whose momentum is the weight decay."""

    @model_validator(mode="after")
    def _accident_of_sgd(self) -> "Training":
        if self.compat and (self.optimiser != "sgd" or self.weight_decay >= 1):
            raise ValueError(
                "compat: expected optimiser sgd and a weight_decay below 1, which becomes the momentum, saw "
                f"{self.optimiser} and {self.weight_decay:g}"
            )
        return self
