"""Schema of a run: what one YAML file may say, with every default."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.affinity import Affinity
from configs.cluster import Resources, check_executor
from configs.dataset import Dataset, Location, Names, Section
from configs.decoders import Decoder, DipsDecoder, FcamDecoder
from configs.normalise import Normalise
from configs.proposals import (
    AttentionProposal,
    ClassProposal,
    GradientProposal,
    MultiScaleProposal,
    Proposal,
    Sweep,
)
from configs.recurseed import RecurSeed
from configs.refine import OtsuStep, Step, check_order
from configs.seed import spread_seed
from configs.segmentation import GROUND_TRUTH, LabelTraining, Recurse, Segmenter
from configs.training import Training
from configs.transformer import Transformer

Trained = Annotated[Decoder | Segmenter | RecurSeed, Field(discriminator="model")]
SMALLEST_VIEW = 32
"""Sides of the smallest images that five halvings leave something of."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Classifier(Section):
    """The image classifier whose gradients make the proposals."""

    backbone: str = "small"
    """``small``, a timm name, or vgg16, vgg16_wsol, resnet18, resnet50, inception_v3, squeezenet1_1, mobilenet_v2."""
    weights: str | None = None
    """Starting weights of the backbone: a safetensors or pth file, ``torchvision:NAME``, or none."""
    trained: Location | None = None
    """A file with the whole trained classifier, head included: used as it is, nothing is trained."""
    head: Literal["gap", "native"] = "gap"
    keep_stride: list[Literal["S2", "S3", "S4", "S5"]] = Field(default=[])
    """Stages of a ResNet whose stride is taken out, so that maps are finer: [S4, S5] for an eighth of the image."""
    frozen: bool = False
    """Train only the linear head, on features computed once."""
    loss: Literal["auto", "cross_entropy", "soft_margin"] = "auto"
    """``auto``: cross entropy if there are two classes or more and every image has exactly one, else soft margin; with
    ``train.puzzle`` always soft margin."""
    input_size: int = Field(default=224, ge=32, le=2048)
    normalise: Normalise = Normalise()
    train: Training = Training()
    train_split: Names = Field(default=["train"], min_length=1)
    batch_size: int = Field(default=32, ge=1)
    """Images per forward pass outside of training."""

    @model_validator(mode="after")
    def _what_puzzle_needs(self) -> "Classifier":
        puzzle = self.train.puzzle
        if puzzle is None:
            return self
        if self.frozen:
            raise ValueError("train.puzzle: expected frozen: false, since it trains the backbone, saw frozen: true")
        if self.head != "gap":
            raise ValueError(f"train.puzzle: expected head: gap, whose logits are means of maps, saw head: {self.head}")
        if self.loss == "cross_entropy":
            raise ValueError("train.puzzle: expected loss auto or soft_margin, its own, saw cross_entropy")
        if self.input_size % puzzle.pieces:
            raise ValueError(
                f"train.puzzle.pieces: expected a divisor of input_size {self.input_size}, saw {puzzle.pieces}"
            )
        # What auto means here, settled before anybody asks how logits become scores. The section is frozen.
        object.__setattr__(self, "loss", "soft_margin")
        return self


class Evaluate(Section):
    """What is measured."""

    steps: bool = True
    """Measure the labels after every step of ``refine``, not only the last."""
    curve: bool = True
    """Count every threshold too (told apart as ``oracle``: it looks at the ground truth)."""
    centred_box: float = Field(default=0.7, gt=0, le=1)
    """Side of the centred-box floor row, as a fraction of the image's sides."""
    localization: bool = True
    """Measure boxes (where the data set has some) and the ranking of pixels (where it has masks)."""
    boxes: Literal["given", "truth"] = "given"
    """Boxes of the data set, or where it has none those around the parts of its ground truth masks."""


class Report(Section):
    """The page."""

    overlays: int = Field(default=24, ge=0, le=500)
    title: str = "Maskmill run"


class Runtime(Section):
    """Where and how the work is done. Only ``precision``, ``fold_batch_norm``, ``channels_last`` and ``compile`` change
    results on one device, in that order of size; they are part of a proposal's key."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of proposals; the classifier trains in float32. ``benchmarks.precision`` measures what each option changes."""
    channels_last: bool = True
    """Lay images out pixel by pixel: faster convolutions, other rounding."""
    fold_batch_norm: bool = False
    """Fold batch norms into the convolutions before them: the same forward pass up to rounding."""
    compile: bool = False
    """Compile the kernel that turns recordings into maps; needs a C++ compiler on a CPU, pays for long runs."""
    shard_images: int = Field(default=100, ge=1, le=1000)
    workers: int = Field(default=0, ge=0, le=256)
    """Threads that decode, threads or processes that refine and evaluate; 0: one per core."""
    threads: int = Field(default=0, ge=0)
    """Threads inside one computation; 0: all cores for training, the workers' share of them for shards."""
    executor: Literal["local", "dask"] = "local"
    """Who does the shards: this machine, or the worker processes of a Dask cluster; same results."""
    spawn_after: float = Field(default=20.0, ge=0)
    """With ``local``: seconds that refinement or evaluation must still take before ``workers`` processes are started
    for it, since threads would wait for Python's lock; shorter work stays in threads."""
    address: str | None = None
    """The cluster's scheduler; none with dask: ``workers`` processes of this machine, started for the run."""
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _where_shards_go(self) -> "Runtime":
        check_executor(self.executor, self.address, self.resources)
        return self


class RunConfig(Section):
    """One run."""

    seed: int | None = Field(default=None, ge=0)
    """Of every training that names none of its own: repeat a whole run with ``--set seed=1``."""
    dataset: Dataset
    classifier: Classifier = Classifier()
    proposals: list[Proposal] = Field(default=[GradientProposal(method="grad_cam")], min_length=1)
    transformer: Transformer | None = None
    sweep: Sweep | None = None
    train: list[Trained] = Field(default=[])
    refine: list[Step] = Field(default=[OtsuStep(step="otsu")], min_length=1)
    recurse: Recurse | None = None
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    runtime: Runtime = Runtime()

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, data: Any) -> Any:
        return spread_seed(data) if isinstance(data, dict) and data.get("seed") is not None else data

    @property
    def all_proposals(self) -> list[Proposal]:
        """Those listed, and those of the sweep that are not listed."""
        listed = [one.settings for one in self.proposals]
        swept = self.sweep.proposals() if self.sweep else []
        return [*self.proposals, *(one for one in swept if one.settings not in listed)]

    @property
    def class_proposals(self) -> list[ClassProposal]:
        """Those that the classifier makes."""
        return [one for one in self.all_proposals if not isinstance(one, AttentionProposal)]

    @property
    def attention_proposals(self) -> list[AttentionProposal]:
        """Those that the transformer makes."""
        return [one for one in self.proposals if isinstance(one, AttentionProposal)]

    @property
    def decoders(self) -> list[Decoder]:
        """Trainings whose maps become proposals."""
        return [one for one in self.train if not isinstance(one, LabelTraining)]

    @property
    def segmenters(self) -> list[Segmenter | RecurSeed]:
        """Trainings whose predictions become label sets."""
        return [one for one in self.train if isinstance(one, LabelTraining)]

    @property
    def all_blocks(self) -> bool:
        """Whether attention of all blocks is asked for, not only of the last."""
        return any(one.method == "ts_cam" for one in self.attention_proposals)

    @model_validator(mode="after")
    def _steps_in_order(self) -> "RunConfig":
        check_order(self.refine)
        if self.refine[0].step == "scg" and self.runtime.precision != "float32":
            # Its column-wise min-max amplifies what half precision loses.
            raise ValueError(
                f"refine: scg expected runtime.precision float32, saw {self.runtime.precision}; use one or the other"
            )
        return self

    @model_validator(mode="after")
    def _what_proposals_need(self) -> "RunConfig":
        attends = [one.title for one in self.attention_proposals]
        attends += [one.title for one in self.train if isinstance(one, DipsDecoder)]
        if attends and self.transformer is None:
            raise ValueError(f"transformer: expected a transformer for {', '.join(attends)}, saw none; add the section")
        known = [one.title for one in self.class_proposals]
        if not known:
            raise ValueError("proposals: expected at least one that the classifier makes (grad_cam, ...), saw none")
        wanted = [(one.title, one.classes) for one in self.attention_proposals if one.classes is not None]
        for title, name in wanted:
            if name not in known:
                raise ValueError(f"proposals: {title}: classes: expected one of {', '.join(known)}, saw {name!r}")
        taught = [one.title for one in self.all_proposals]
        for one in self.decoders:
            if isinstance(one, FcamDecoder | Affinity) and one.proposal not in taught:
                raise ValueError(
                    f"train: {one.title}: proposal: expected one of {', '.join(taught)}, saw {one.proposal!r}"
                )
        return self

    @model_validator(mode="after")
    def _masks_to_learn_from(self) -> "RunConfig":
        known = [one.title for one in (*self.all_proposals, *self.decoders)]
        for one in self.segmenters:
            if isinstance(one, Segmenter) and one.labels not in (None, GROUND_TRUTH, *known):
                raise ValueError(
                    f"train: {one.title}: labels: expected {GROUND_TRUTH} or one of {', '.join(known)}, saw "
                    f"{one.labels!r}; a network that predicts masks comes before those that learn from them"
                )
            known.append(one.title)
        if self.recurse is not None and self.recurse.train.labels not in (None, *known):
            raise ValueError(
                f"recurse: train.labels: expected one of {', '.join(known)}, saw {self.recurse.train.labels!r}"
            )
        return self

    @model_validator(mode="after")
    def _room_for_crops(self) -> "RunConfig":
        learned = [*self.train, *([self.recurse.train] if self.recurse else [])]
        for one in learned:
            own = one.input_size if isinstance(one, LabelTraining) else None
            side = own or self.classifier.input_size
            if one.resize is not None and one.resize < side:
                raise ValueError(
                    f"train: {one.title}: resize: expected at least {'' if own else 'classifier.'}input_size, {side}, "
                    f"saw {one.resize}"
                )
        return self

    @model_validator(mode="after")
    def _views_large_enough(self) -> "RunConfig":
        side = self.classifier.input_size
        for one in self.class_proposals:
            if isinstance(one, MultiScaleProposal) and round(side * min(one.scales)) < SMALLEST_VIEW:
                raise ValueError(
                    f"proposals: {one.title}: scales: expected images of {SMALLEST_VIEW} pixels a side and more, saw "
                    f"{min(one.scales):g} of classifier.input_size {side}"
                )
        return self

    @model_validator(mode="after")
    def _unique_titles(self) -> "RunConfig":
        titles = [one.title for one in (*self.all_proposals, *self.train)]
        if self.recurse is not None:
            titles += [self.recurse.title(number) for number in range(1, self.recurse.rounds + 1)]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"proposals: expected different names, seen twice: {', '.join(twice)}")
        return self
