"""Pretraining of the transformer on the run's own images, without labels (DINO self-distillation).

A student sees large and small crops, a teacher only the large ones; the student learns to answer for one crop what the
teacher answers for another, and the teacher is the student's moving average. The teacher is what is kept.
"""

import copy
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from configs.transformer import Pretraining, Transformer
from methods.losses.self_distillation import distillation_terms, moved_centre
from methods.networks.projection_head import ProjectionHead
from methods.networks.vision_transformer import cls_token
from methods.training.multi_crop import Jitter, multi_crop
from tasks.engine import Batch, Batches, Engine, History, Learner, Moment, Progress, Terms, share, step_seed
from tasks.images import ImageSource, to_input

LARGE = 2
"""Large crops of an image: what the teacher sees."""
COLLAPSED = 1e-3
"""A divergence below it, in nats: student and teacher agree on everything, for want of anything to say."""


def fit_transformer(
    vit: VisionTransformer,
    config: Transformer,
    rows: list[int],
    source: ImageSource,
    device: torch.device,
    checkpoint: Path,
    progress: Progress,
) -> History:
    """Pretrain a transformer, continuing from its checkpoint where there is one.

    Parameters
    ----------
    vit
        With the weights to begin with; it ends with the teacher's.
    config
        A section with ``pretrain``.
    rows
        Index rows of the images to learn from.
    source
        Reads them.
    device
        Where to compute.
    checkpoint
        Where student, teacher, centre and optimiser go after each epoch; it stays until the weights are committed.
    progress
        Told after every epoch.

    Returns
    -------
    list of dict
        By epoch: the loss and its two parts, the entropy of the teacher's answers and the student's divergence.

    Raises
    ------
    ValueError
        No ``pretrain``, fewer than two images, or sides of crops that are no multiples of the patch size.
    TrainingError
        A loss that is not finite.

    Warns
    -----
    UserWarning
        Student and teacher ended in full agreement: a collapse.
    """
    settings = _checked(vit, config, rows)
    torch.manual_seed(settings.seed)
    learner = DistillationLearner(vit, settings).to(device)
    batches = crop_batches(source, config, settings, rows, device)
    engine = Engine(learner, settings, device, where="transformer.pretrain", ids=source.index.ids)
    history = engine.fit(batches, checkpoint, progress)
    _warn_of_collapse(history, settings)
    vit.load_state_dict(learner.pair.teacher.vit.state_dict())
    return history


class Branch(nn.Module):
    """A transformer and a projection head."""

    def __init__(self, vit: VisionTransformer, head: ProjectionHead) -> None:
        super().__init__()
        self.vit, self.head = vit, head

    def forward(self, images: Tensor) -> Tensor:
        """Answers ``[B, K]``."""
        answers: Tensor = self.head(cls_token(self.vit, images))
        return answers


class Pair(nn.Module):
    """Student and teacher, equal at first, and the teacher's centre: all that a checkpoint holds."""

    centre: Tensor

    def __init__(self, vit: VisionTransformer, settings: Pretraining) -> None:
        super().__init__()
        wide = {"hidden": settings.hidden, "bottleneck": settings.bottleneck}
        head = ProjectionHead(vit.embed_dim, settings.outputs, **wide)
        self.student = Branch(copy.deepcopy(vit).requires_grad_(True), head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(settings.outputs))

    def train(self, mode: bool = True) -> "Pair":
        """As of every module, but the teacher drops nothing."""
        super().train(mode)
        self.teacher.eval()
        return self


class DistillationLearner(Learner):
    """Self-distillation of a transformer.

    Parameters
    ----------
    vit
        Student and teacher begin as copies of it.
    settings
        Temperatures, momenta, weight decay.
    """

    def __init__(self, vit: VisionTransformer, settings: Pretraining) -> None:
        super().__init__()
        self.pair, self.settings = Pair(vit, settings), settings

    @property
    def trained(self) -> nn.Module:
        """Student, teacher and centre."""
        return self.pair

    def groups(self) -> list[dict[str, Any]]:
        """The student's parameters; biases and norms do not decay."""
        own = list(self.pair.student.parameters())
        kept = [one for one in own if one.ndim < 2]
        return [{"params": [one for one in own if one.ndim >= 2]}, {"params": kept, "weight_decay": 0.0}]

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:  # noqa: ARG002
        """Entropy of the teacher, which only the history is interested in, and the student's divergence."""
        pair, settings = self.pair, self.settings
        large, small = tensors["large"], tensors.get("small")
        with torch.no_grad():
            told = _answers(pair.teacher, large)
        said = _answers(pair.student, large)
        if small is not None:
            said = torch.cat([said, _answers(pair.student, small)])
        entropy, divergence = distillation_terms(
            said,
            told,
            pair.centre,
            student_temperature=settings.student_temperature,
            teacher_temperature=settings.teacher_temperature,
        )
        pair.centre.copy_(moved_centre(pair.centre, _mean_of_all(told), settings.centre_momentum))
        return {"entropy": entropy, "divergence": divergence}

    def about_to_step(self, optimiser: torch.optim.Optimizer, moment: Moment) -> None:
        """Clip each gradient by itself, leave the last layer out at first, and set the weight decay of this step."""
        settings, student = self.settings, self.pair.student
        for parameter in student.parameters():
            nn.utils.clip_grad_norm_([parameter], settings.clip_gradient)
        if moment.epoch < settings.freeze_last_epochs:
            student.head.last.grad = None
        decay = cosine(settings.weight_decay, settings.weight_decay_end, moment.progress)
        optimiser.param_groups[0]["weight_decay"] = decay

    def stepped(self, moment: Moment) -> None:
        """Let the teacher follow the student."""
        share_kept = cosine(self.settings.teacher_momentum, 1.0, moment.progress)
        with torch.no_grad():
            for old, new in zip(self.pair.teacher.parameters(), self.pair.student.parameters(), strict=True):
                old.lerp_(new, 1 - share_kept)


def crop_batches(
    source: ImageSource, config: Transformer, settings: Pretraining, rows: list[int], device: torch.device
) -> Batches:
    """Batches of views, shuffled and drawn anew each epoch; a rest that fills no batch is left out."""
    # Read so large that the smallest large crop is not enlarged.
    large = settings.global_size or config.input_size
    loaded = math.ceil(large / math.sqrt(settings.global_scale[0]))
    jitter = Jitter(settings.jitter, settings.grey, settings.blur, settings.invert)

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(settings.seed, epoch))
        order, size = share(torch.randperm(len(rows), generator=generator).tolist(), settings.batch_size)
        steps = max(1, len(order) // size)

        def drawn(images: Tensor, side: int, scale: list[float], count: int) -> Tensor:
            vertical = settings.vertical_flip
            views = multi_crop(
                images, side, (scale[0], scale[1]), generator, count=count, vertical=vertical, jitter=jitter
            )
            return to_input(views.flatten(0, 1) * 255, config.normalise, device).reshape(views.shape)

        def run() -> Iterator[Batch]:
            for group, pixels in source.batches([rows[i] for i in order[: steps * size]], loaded, size):
                images = pixels.to(device).float() / 255
                views = {"large": drawn(images, large, settings.global_scale, LARGE)}
                if settings.local_crops:
                    views["small"] = drawn(images, settings.local_size, settings.local_scale, settings.local_crops)
                yield Batch(group, views)

        return run(), steps

    return batches


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``end``, ``progress`` from 0 to 1.

    Examples
    --------
    >>> [cosine(0.0, 4.0, part) for part in (0.0, 0.5, 1.0)]
    [0.0, 2.0, 4.0]
    """
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _answers(branch: nn.Module, views: Tensor) -> Tensor:
    """``[V, B, K]`` of views ``[V, B, 3, H, W]``."""
    answers: Tensor = branch(views.flatten(0, 1))
    return answers.reshape(*views.shape[:2], -1)


def _mean_of_all(told: Tensor) -> Tensor:
    """Mean of the teacher's answers ``[1, K]`` over views and images, of all processes."""
    mean = told.flatten(0, 1).float().mean(dim=0, keepdim=True)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean


def _checked(vit: VisionTransformer, config: Transformer, rows: list[int]) -> Pretraining:
    settings = config.pretrain
    if settings is None:
        raise ValueError("transformer: expected a pretrain section")
    if len(rows) < 2:
        raise ValueError(
            f"transformer.pretrain: expected two images or more in {', '.join(settings.split)}, saw {len(rows)}"
        )
    patch = vit.patch_embed.patch_size[0]
    sides = {"transformer.input_size": config.input_size}
    if settings.global_size:
        sides["transformer.pretrain.global_size"] = settings.global_size
    if settings.local_crops:
        sides["transformer.pretrain.local_size"] = settings.local_size
    for name, side in sides.items():
        if side % patch:
            near = max(1, round(side / patch)) * patch
            raise ValueError(f"{name}: expected a multiple of the patch size {patch}, saw {side}; use {near}")
    return settings


def _warn_of_collapse(history: History, settings: Pretraining) -> None:
    last = history[-1]
    if last["divergence"] >= COLLAPSED:
        return
    kind = "one answer for every image" if last["entropy"] < math.log(settings.outputs) / 2 else "all answers alike"
    warnings.warn(
        f"transformer.pretrain: expected student and teacher to differ, saw a divergence of {last['divergence']:.2g} "
        f"with an entropy of {last['entropy']:.2g} of at most {math.log(settings.outputs):.2g}: a collapse ({kind}); "
        "change teacher_temperature or lower learning_rate",
        stacklevel=3,
    )
