"""Schema of the affinity stage in the ``train`` section: a network of edges, and the walk that it steers."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from configs.dataset import Names, Section
from configs.training import Optimisation

Fraction = Annotated[float, Field(ge=0, le=1)]


class AffinityOptimisation(Optimisation):
    """IRN's: a few epochs of stochastic gradient descent at a rate that falls as a polynomial."""

    epochs: int = Field(default=3, ge=1)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    schedule: Literal["constant", "cosine", "step", "poly"] = "poly"


class Walk(Section):
    """Random walk over the finished network's edges. Another walk needs no other training."""

    radius: int = Field(default=5, ge=2)
    """Places less than this apart, on a grid of a quarter of the image's sides, are neighbours."""
    beta: float = Field(default=10.0, gt=0)
    """Exponent of the affinities: larger is stricter."""
    times: int = Field(default=8, ge=0, le=16)
    """How often the transitions are squared: 8 are 256 steps."""


class Affinity(Section):
    """IRN's affinity stage: edges learned from what the maps of one proposal say for sure, maps walked up to them."""

    model: Literal["affinity"]
    name: str | None = None
    """Shown in tables; default: built from the proposal's name."""
    proposal: str = Field(min_length=1)
    """Name of the proposal that labels come from, and whose maps walk."""
    layers: list[str] | None = None
    """Stages that the network looks at; none: all of the classifier's."""
    foreground: Fraction = 0.40
    """Above it, a normalised map is surely its class."""
    background: Fraction = 0.10
    """Where no map is above it, there is surely none."""
    clean: Literal["pamr", "none"] = "pamr"
    """What makes both label maps follow the image's colours before they are joined; IRN has a dense CRF here."""
    radius: int = Field(default=10, ge=2)
    """Places less than this apart, on a grid of a quarter of the image's sides, are pairs to learn from."""
    walk: Walk = Walk()
    resize: int | None = Field(default=None, ge=32)
    """Side that training images are resized to before the crop; none: 8/7 of the classifier's input, 256 for 224."""
    flip: bool = True
    optimise: AffinityOptimisation = AffinityOptimisation()
    split: Names = Field(default=["train"], min_length=1)
    select: ClassVar[None] = None
    """No number of maps chooses the epoch: edges are no maps yet."""
    select_split: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.name or f"affinity-{self.proposal}"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what is learned."""
        return self.model_dump(mode="json", exclude={"name", "walk"})

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Affinity":
        if self.background > self.foreground:
            raise ValueError(f"background: expected at most foreground, {self.foreground:g}, saw {self.background:g}")
        return self
