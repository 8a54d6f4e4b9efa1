"""Predicted label sets: what a trained network says of every image, as masks with a confidence like any other."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs import RunConfig
from configs.recurseed import RecurSeed
from configs.segmentation import Inference, LabelTraining, Segmenter
from methods.activation import gate_classes, multi_scale_decode, present_classes
from methods.activation.halving import halving
from methods.networks import Joint
from methods.refinement import pamr
from storage.faults import dying_point
from storage.files import file_digest
from storage.index import IGNORE, ImageIndex, Shard
from storage.labels import Mask, to_canvas
from storage.models import WEIGHTS, describe
from storage.stages import FACTS, StageFolder
from storage.weights import load_state
from tasks.context import FolderWork
from tasks.fit_decoder import own_classifier
from tasks.fit_segmenter import new_segmenter
from tasks.images import ImageSource, to_input
from tasks.propose import LOGITS
from tasks.refine import FAILED, FAILURES, MASK_FACTS
from tasks.state import State

Look = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images to logits of the decoder ``[n, C + 1, h, w]`` and of the classes ``[n, C]``."""
NO_CLASS = "not finite"
TILE = 1024
"""Larger images are refined in tiles of this side, with the same result."""


class Predictor:
    """Probabilities of images by a trained network, and which classes they may show.

    Parameters
    ----------
    training
        What the network was trained as, with its inference.
    network
        In evaluation mode.
    index
        The image index.
    scores
        Class scores ``(N, C)`` by index row for a network that has none of its own; none: no such gate is asked for.
    channels_last
        Lay images and weights out pixel by pixel: faster convolutions.
    """

    def __init__(
        self,
        training: LabelTraining,
        network: nn.Module,
        index: ImageIndex,
        scores: Tensor | None = None,
        *,
        channels_last: bool = False,
    ) -> None:
        self.inference: Inference = training.inference
        self.side = training.side
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network, self.index, self.scores = network.to(memory_format=self.layout), index, scores
        self.look: Look = self._plain if isinstance(training, Segmenter) else self._joint

    def __call__(self, images: Tensor, rows: Sequence[int]) -> Tensor:
        """Values ``[B, C + 1, h, w]`` of network input, background first, the larger the likelier, or NaN."""
        wish = self.inference
        decoded = multi_scale_decode(images, self.look, scales=wish.scales, flip=wish.flip, interpolation="bilinear")
        scores = (decoded.scores if self.scores is None else self.scores[list(rows)]).to(images.device)
        found = decoded.probabilities
        known = found.isfinite().all(dim=1, keepdim=True)
        if wish.gate == "scores":
            known = known & scores.isfinite().all(dim=1)[:, None, None, None]
        gated = gate_classes(found.nan_to_num(), self._present(scores, rows), normalise=wish.stretch)
        # What is not finite stays so: its image is set aside, never background.
        return torch.where(known, gated, torch.nan)

    def _present(self, scores: Tensor, rows: Sequence[int]) -> Tensor:
        if self.inference.gate == "labels":
            return torch.from_numpy(self.index.targets[list(rows)]).to(scores.device) > 0
        if self.inference.gate == "scores":
            return present_classes(scores.nan_to_num(), self.inference.gate_threshold)
        return torch.ones_like(scores, dtype=torch.bool)

    def _plain(self, views: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self._output(views)
        return logits.float(), views.new_zeros(len(views), len(self.index.classes))

    def _joint(self, views: Tensor) -> tuple[Tensor, Tensor]:
        found: Joint = self._output(views)
        return found.logits.float(), found.class_logits.float()

    def _output(self, views: Tensor) -> Any:
        with torch.autocast(views.device.type, torch.bfloat16, enabled=self.inference.precision == "bfloat16"):
            return self.network(views.contiguous(memory_format=self.layout))


def load_predictor(state: State, training: Segmenter | RecurSeed, folder: Path, weights: str) -> Predictor:
    """A finished network, ready to look at images; ``weights`` is the digest that is expected.

    Raises
    ------
    ValueError
        The file has changed.
    """
    path = folder / WEIGHTS
    if file_digest(path) != weights:
        raise ValueError(f"{path}: expected sha256 {weights[:12]}…; the file changed, run `maskmill verify --repair`")
    network = new_segmenter(training, own_classifier(state), len(state.index.classes))
    network.load_state_dict(load_state(path))
    network.eval().requires_grad_(False).to(state.device)
    asks = isinstance(training, Segmenter) and training.inference.gate == "scores"
    scores = _scores(state) if asks else None
    return Predictor(training, network, state.index, scores, channels_last=state.run.config.runtime.channels_last)


def _scores(state: State) -> Tensor:
    """The classifier's probabilities by index row; images that it has not seen show no class."""
    multi_label = bool(describe(state.model)["multi_label"]) if state.model else True
    scores = torch.zeros(len(state.index), len(state.index.classes))
    for one in state.scored.table(LOGITS).to_pylist():
        logits = torch.tensor(one["logits"], dtype=torch.float32)
        scores[one["row"]] = logits.sigmoid() if multi_label else logits.softmax(dim=0)
    return scores


class PredictWork(FolderWork):
    """Masks of one trained network, a shard at a time.

    Parameters
    ----------
    config
        The run.
    predictor
        Gives probabilities.
    source
        Reads images.
    device
        Where the network is.
    folder
        Label set to write, see :func:`tasks.refine.begin_masks`.
    """

    title = "predict"

    def __init__(
        self,
        config: RunConfig,
        predictor: Predictor,
        source: ImageSource,
        device: torch.device,
        folder: StageFolder,
    ) -> None:
        self.config, self.predictor, self.source, self.device, self.folder = config, predictor, source, device, folder
        self.index: ImageIndex = source.index
        self.shards = self.index.shards(config.runtime.shard_images)
        self.fits = config.classifier.batch_size

    def __call__(self, shard: int) -> None:
        """Predict one shard."""
        began = time.monotonic()
        part, classifier = self.shards[shard], self.config.classifier
        labels: dict[int, Mask] = {}
        sure: dict[int, Mask] = {}
        facts: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        left_out = self.left_out(shard)
        for row in left_out:
            size = self.index.sizes[row]
            labels[row], sure[row] = np.full(size, IGNORE, np.uint8), np.zeros(size, np.uint8)
        rows = [row for row in self.images(shard) if row not in left_out]
        side = self.predictor.side(classifier.input_size)
        for group, images in self.source.batches(rows, side, classifier.batch_size):
            ready = to_input(images, classifier.normalise, self.device)
            parts, self.fits = halving(self._probabilities(ready, group), len(group), self.fits)
            for row, found in zip(group, torch.cat(parts), strict=True):
                labels[row], sure[row] = self._decide(row, found)
                facts += self._facts(row, labels[row], sure[row])
                if not torch.isfinite(found).all():
                    failures.append(
                        {"row": row, "image_id": self.index.ids[row], "step": "predict", "reason": NO_CLASS}
                    )
        dying_point("infer")
        self._write(part, labels, sure, facts, failures, began)

    def _probabilities(self, images: Tensor, rows: list[int]) -> Callable[[slice], Tensor]:
        return lambda part: self.predictor(images[part], rows[part])

    def _decide(self, row: int, found: Tensor) -> tuple[Mask, Mask]:
        """Labels and confidences of one image at its own size; what is not finite says nothing."""
        size = self.index.sizes[row]
        if not torch.isfinite(found).all():
            return np.full(size, IGNORE, np.uint8), np.zeros(size, np.uint8)
        # Of many classes an image shows few: the others are zero throughout, and stay so.
        shown = found.flatten(1).any(dim=1)
        shown[0] = True
        full = F.interpolate(found[None, shown], size, mode="bilinear", align_corners=False)
        if self.predictor.inference.pamr:
            pixels = torch.from_numpy(self.source.pixels(row).transpose(2, 0, 1).copy()).to(full)
            full = pamr(pixels[None] / 255, full, tile=TILE if max(size) > TILE else None)
        # Gating may leave nothing but a little background: shares are of what is left.
        value, place = (full / full.sum(dim=1, keepdim=True).clamp(min=1e-12))[0].max(dim=0)
        label = shown.nonzero()[:, 0][place]
        return label.to(torch.uint8).cpu().numpy(), (value * 255).round().to(torch.uint8).cpu().numpy()

    def _facts(self, row: int, label: Mask, sure: Mask) -> list[dict[str, Any]]:
        index, known = self.index, label != IGNORE
        shown = sorted(({*np.unique(label).tolist()} - {0, IGNORE}) | set(index.class_ids[row]))
        about = {"row": row, "image_id": index.ids[row], "pair": -1, "threshold": -1, "flag": ""}
        confidence = float(sure[known].mean()) / 255 if known.any() else 0.0
        return [
            {
                **about,
                "class": index.classes[k - 1],
                "class_id": k,
                "share": float((label == k).mean()),
                "score": float(sure[label == k].mean()) / 255 if (label == k).any() else 0.0,
                "confidence": confidence,
            }
            for k in shown
        ]

    def _write(
        self,
        shard: Shard,
        labels: dict[int, Mask],
        sure: dict[int, Mask],
        facts: list[dict[str, Any]],
        failures: list[dict[str, Any]],
        began: float,
    ) -> None:
        name = self.index.array_name
        arrays = {
            name("label", shard.canvas): (shard.object, to_canvas(labels, shard, IGNORE)),
            name("confidence", shard.canvas): (shard.object, to_canvas(sure, shard, 0)),
        }
        tables = {
            FACTS: pa.Table.from_pylist(facts, MASK_FACTS),
            FAILURES: pa.Table.from_pylist(failures, FAILED),
        }
        self.folder.write(shard.number, arrays=arrays, tables=tables, began=began)
