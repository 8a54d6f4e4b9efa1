"""Schema of the ``proposals`` and ``sweep`` sections: the ways of making soft maps, told apart by ``method``."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from configs.dataset import Section

Stage = Annotated[str, Field(min_length=1)]
Layers = Annotated[list[Stage], Field(min_length=1)]
Percentile = Annotated[int, Field(ge=0, le=99)]
Scale = Annotated[float, Field(gt=0, le=4)]
Population = Literal["channel", "layer"]
Fusion = Literal["sum", "mean_norm", "max_tanh"]
GradientMethod = Literal["grad_cam", "grad_cam_plus_plus", "layer_cam", "xgrad_cam"]


class _Proposal(Section):
    method: str
    name: str | None = None
    """Shown in tables; default: built from the settings."""

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.name or self._built()

    def _built(self) -> str:
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what the maps are."""
        return self.model_dump(mode="json", exclude={"name"})


class _Layered(_Proposal):
    layers: Layers = Field(default=["S5"])
    """Stage names (S1..S5, see ``maskmill plan``) or module names; several are fused (layerization)."""
    fuse: Fusion = "sum"

    @property
    def _where(self) -> str:
        return "+".join(self.layers)

    @property
    def _fused(self) -> str:
        return "" if self.fuse == "sum" or len(self.layers) == 1 else f"-{self.fuse}"


class GradientProposal(_Layered):
    """A gradient CAM, with ``truncation`` its LT form; all of a run share one recording."""

    method: GradientMethod
    truncation: Percentile | None = None
    """Percentile below which positive gradients are dropped (LT); none: all gradients, negative ones too."""
    population: Population = "channel"

    def _built(self) -> str:
        if self.truncation is None:
            return f"{self.method}-{self._where}{self._fused}"
        return f"{_lt(self.population)}{self.method}-{self._where}-d{self.truncation}{self._fused}"


class ClassMapProposal(_Proposal):
    """CAM: the head's weights times the last feature map. Needs a linear head on average pooling (``head: gap``)."""

    method: Literal["cam"]
    rectify: bool = False
    """Set negative values to zero before normalising."""

    def _built(self) -> str:
        return "cam-rectified" if self.rectify else "cam"


class MultiScaleProposal(_Proposal):
    """CAM summed over sizes and mirror images, at a quarter of the network's input: how Puzzle-CAM makes its maps.

    Needs a head as CAM does; costs one pass per scale and view, whatever the number of classes.
    """

    method: Literal["multi_scale_cam"]
    scales: list[Scale] = Field(default=[0.5, 1.0, 1.5, 2.0], min_length=1)
    """Sizes relative to ``classifier.input_size``."""
    flip: bool = True
    """Add the maps of the mirror images."""
    rectify: bool = True
    """Set negative values of every view to zero before summing, as published."""

    def _built(self) -> str:
        return "multi_scale_cam" if self.rectify else "multi_scale_cam-signed"

    @field_validator("scales")
    @classmethod
    def _different(cls, scales: list[float]) -> list[float]:
        twice = sorted({f"{one:g}" for one in scales if scales.count(one) > 1})
        if twice:
            raise ValueError(f"expected different scales, seen twice: {', '.join(twice)}")
        return scales


class FullGradProposal(_Proposal):
    """FullGrad, at the size of the network's input."""

    method: Literal["full_grad"]
    truncation: Percentile | None = None

    def _built(self) -> str:
        return "full_grad" if self.truncation is None else f"lt_full_grad-d{self.truncation}"


class SmoothProposal(_Layered):
    """Smooth-Grad-CAM++: moments of the gradient over noisy copies of the image."""

    method: Literal["smooth_grad_cam_plus_plus"]
    samples: int = Field(default=4, ge=1, le=1000)
    sigma: float = Field(default=0.3, ge=0)
    """Standard deviation of the noise on the normalised image."""
    seed: int = Field(default=0, ge=0)

    def _built(self) -> str:
        return f"{self.method}-{self._where}{self._fused}"


class _Perturbed(_Layered):
    max_maps: int | None = Field(default=None, ge=1)
    """Use only so many channels, those of most energy; default: all."""

    def _built(self) -> str:
        few = "" if self.max_maps is None else f"-m{self.max_maps}"
        return f"{self.method}-{self._where}{few}{self._fused}"


class PerturbationProposal(_Perturbed):
    """Score-CAM or Ablation-CAM: one forward pass per channel, whatever the number of classes."""

    method: Literal["score_cam", "ablation_cam"]


class SampledProposal(_Perturbed):
    """SS-CAM or IS-CAM: Score-CAM averaged over noisy masks, or over growing strengths of the image."""

    method: Literal["ss_cam", "is_cam"]
    samples: int | None = Field(default=None, ge=1, le=1000)
    """Default: the papers' 35 (SS-CAM) and 10 (IS-CAM)."""
    seed: int = Field(default=0, ge=0)
    """Of the noise of SS-CAM."""


class AttentionProposal(_Proposal):
    """Attention of the run's transformer: where it looks, not at which class.

    ``dino``: of the last block. In an image with several labels another proposal tells them apart. ``ts_cam``: the mean
    over heads and blocks times the map of that other proposal, in every image.
    """

    method: Literal["dino", "ts_cam"]
    head: Literal["mean"] | Annotated[int, Field(ge=0)] = "mean"
    """Head of the last block, from 0, or the mean of all; ``ts_cam`` takes the mean."""
    classes: str | None = None
    """Name of the proposal that tells classes apart; none: the first one listed that looks at classes."""

    def _built(self) -> str:
        return self.method if self.head == "mean" else f"{self.method}-head{self.head}"


ClassProposal = (
    GradientProposal
    | ClassMapProposal
    | MultiScaleProposal
    | FullGradProposal
    | SmoothProposal
    | PerturbationProposal
    | SampledProposal
)
"""Made from the classifier."""
Proposal = Annotated[ClassProposal | AttentionProposal, Field(discriminator="method")]


class Sweep(Section):
    """One LT method at several percentiles: what δ does, and which one to take."""

    method: GradientMethod = "grad_cam"
    layers: Layers = Field(default=["S3", "S4", "S5"])
    truncations: list[Percentile] = Field(default=list(range(0, 100, 10)), min_length=2)
    population: Population = "channel"
    fuse: Fusion = "sum"
    choose: Literal["gold", "rule"] = "gold"
    """``gold``: best mean IoU on a few images with ground truth; ``rule``: the tightest masks that keep every label
    (smallest label share), no ground truth needed."""
    gold_images: int = Field(default=20, ge=1)
    gold_split: str = Field(default="train", min_length=1)
    """Split that the gold images come from. What is reported of the chosen percentile leaves them out."""

    @field_validator("truncations")
    @classmethod
    def _different(cls, truncations: list[int]) -> list[int]:
        twice = sorted({str(one) for one in truncations if truncations.count(one) > 1})
        if twice:
            raise ValueError(f"expected different percentiles, seen twice: {', '.join(twice)}")
        return truncations

    @property
    def title(self) -> str:
        """The name in tables: that of its proposals without the percentile."""
        fused = "" if self.fuse == "sum" or len(self.layers) == 1 else f"-{self.fuse}"
        return f"{_lt(self.population)}{self.method}-{'+'.join(self.layers)}{fused}"

    def proposals(self) -> list[GradientProposal]:
        """The proposals to make, one per percentile."""
        return [
            GradientProposal(
                method=self.method,
                layers=self.layers,
                truncation=percentile,
                population=self.population,
                fuse=self.fuse,
            )
            for percentile in self.truncations
        ]


def _lt(population: Population) -> str:
    return "lt_" if population == "channel" else f"lt_{population}_"
