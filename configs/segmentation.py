"""Schema of segmentation networks in the ``train`` section: they learn from stored masks and predict label sets."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.dataset import Names, Section
from configs.training import Optimisation, Schedule

GROUND_TRUTH = "ground_truth"
Scale = Annotated[float, Field(gt=0, le=4)]


class SegmentationOptimisation(Optimisation):
    """DeepLab's: stochastic gradient descent with a polynomial rate."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=16, ge=2)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.007, gt=0)
    weight_decay: float = Field(default=4e-5, ge=0)
    schedule: Schedule = "poly"


class Inference(Section):
    """How a trained network looks at an image, and which classes it may find."""

    scales: list[Scale] = Field(default=[1.0], min_length=1)
    """Sizes that probabilities are averaged over, as factors of the classifier's input; the first gives the grid."""
    flip: bool = True
    """Average with the mirrored image."""
    gate: Literal["none", "scores", "labels"] = "none"
    """Classes that may appear: all, those with an image-level score, or the image's own labels. Labels are for making
    pseudo-masks: a user of the network has none."""
    gate_threshold: float = Field(default=0.34, ge=0, le=1)
    """Least score of a class, for ``scores``."""
    stretch: bool = False
    """Divide every class's map by its maximum, as RecurSeed does: a class that may appear then does."""
    pamr: bool = False
    """Refine the probabilities by PAMR at the image's own size."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network; probabilities are float32 always."""


class LabelTraining(Section):
    """What every training of a network that predicts masks has."""

    name: str | None = None
    """Shown in tables; default: built from the settings."""
    backbone: str | None = None
    """Network whose features the decoder joins; it learns too. None: the classifier's."""
    weights: str | None = None
    """Of the backbone: a safetensors or pth file, ``torchvision:NAME``; none: the classifier's where it is the same."""
    keep_stride: list[Literal["S2", "S3", "S4", "S5"]] = Field(default=[])
    """Stages of a ResNet whose stride is taken out: [S5] for a sixteenth of the image, as DeepLab has it."""
    width: int = Field(default=256, ge=8, le=1024)
    """Channels of the decoder, where the network leaves a choice."""
    input_size: int | None = Field(default=None, ge=32, le=2048)
    """Side of the crops that are learned, and of the images at prediction; none: the classifier's."""
    resize: int | None = Field(default=None, ge=32)
    """Side that training images are resized to before the crop; none: 8/7 of that."""
    flip: bool = True
    vertical_flip: bool = False
    groups: bool = False
    """Learning rates as Puzzle-CAM: biases twice that of weights and without decay, new parts ten times that of the
    encoder."""
    inference: Inference = Inference()
    split: Names = Field(default=["train"], min_length=1)

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.name or self._built()

    def _built(self) -> str:
        raise NotImplementedError

    def side(self, classifier: int) -> int:
        """Side of what the network looks at, where the classifier's is ``classifier``."""
        return self.input_size or classifier

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what is learned."""
        return self.model_dump(mode="json", exclude={"name", "inference"})


class Segmenter(LabelTraining):
    """A segmentation network on stored masks, or on the ground truth as the ceiling of what masks can teach."""

    model: Literal["deeplabv3plus", "deeplabv3_resnet50", "unet"]
    labels: str | None = None
    """Name of a proposal, decoder or earlier segmentation network, whose last masks are learned; ``ground_truth``;
    none: the first proposal."""
    confidence: bool = False
    """Weigh every pixel's loss by the confidence that is stored beside its label."""
    optimise: SegmentationOptimisation = SegmentationOptimisation()

    def _built(self) -> str:
        return f"{self.model}-{self.labels or 'first'}"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what is learned, but the name of the masks: their key says which they are."""
        return {key: value for key, value in super().settings.items() if key != "labels"}

    @model_validator(mode="after")
    def _confidence_of_masks(self) -> "Segmenter":
        if self.confidence and self.labels == GROUND_TRUTH:
            raise ValueError("confidence: expected masks that were made here, the ground truth has no confidence")
        return self


class Recurse(Section):
    """Label, train, label again: every round learns from the masks that the round before predicted."""

    rounds: int = Field(default=3, ge=1, le=20)
    stop: float = Field(default=0.02, ge=0, le=1)
    """End when a round changes at most this share of the pixels: it looks at no ground truth."""
    train: Segmenter
    """The network of every round; its ``labels`` are those of the first."""

    def round(self, number: int) -> Segmenter:
        """The training of one round, counted from 1."""
        labels = self.train.labels if number == 1 else self.title(number - 1)
        return self.train.model_copy(update={"name": self.title(number), "labels": labels})

    def title(self, number: int) -> str:
        """Name of a round."""
        return f"{self.train.title} round {number}"

    @model_validator(mode="after")
    def _not_the_ceiling(self) -> "Recurse":
        if self.train.labels == GROUND_TRUTH:
            raise ValueError("train.labels: expected masks to begin with, saw ground_truth; recursion improves masks")
        return self
