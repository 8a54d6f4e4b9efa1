"""Boxes around attention, ranked by the classifier: where DiPS believes an object to be."""

import time
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from configs import RunConfig
from configs.decoders import Regions
from methods.networks import ClassifierNetwork
from methods.proposals import propose_boxes, score_boxes
from storage.faults import dying_point
from storage.index import ImageIndex
from storage.stages import FACTS, StageFolder
from tasks.attend import MEAN, AttentionMaps
from tasks.context import FolderWork
from tasks.images import ImageSource, to_input

HEADS = 4
"""Heads that draw boxes beside the mean, as in the paper's code."""
REGIONS = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("class_id", pa.int16()),
        ("head", pa.int16()),
        ("side", pa.int16()),
        ("x0", pa.int16()),
        ("y0", pa.int16()),
        ("x1", pa.int16()),
        ("y1", pa.int16()),
        ("area", pa.float32()),
        ("score", pa.float32()),
        ("rank", pa.int16()),
        ("fallback", pa.bool_()),
    ]
)
"""A row per image, label and box. Coordinates are those of the image resized to a square of ``side``; ``area`` is a
share of it; ``head`` -1 is the mean of all; ``rank`` 0 has the largest ``score``, the label's probability for the image
blurred outside of the box; ``fallback``: no box was large enough, this is the largest."""


class RegionWork(FolderWork):
    """Boxes of one shard after the other."""

    title = "regions"

    def __init__(
        self,
        config: RunConfig,
        regions: Regions,
        index: ImageIndex,
        network: ClassifierNetwork,
        source: ImageSource,
        device: torch.device,
        attended: StageFolder,
        folder: StageFolder,
        *,
        multi_label: bool,
    ) -> None:
        self.classifier, self.regions, self.index, self.network = config.classifier, regions, index, network
        self.source, self.device, self.attended, self.folder = source, device, attended, folder
        self.multi_label = multi_label
        self.shards = index.shards(config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Find and score the boxes of one shard."""
        began = time.monotonic()
        attention = AttentionMaps(self.attended, shard)
        left_out = self.left_out(shard)
        rows = [row for row in self.images(shard) if self.index.class_ids[row] and row not in left_out]
        # What is not finite draws no box; its proposal is flagged, and its image set aside there.
        rows = [row for row in rows if attention.maps(row).isfinite().all()]
        facts: list[dict[str, Any]] = []
        for group, images in self.source.batches(rows, self.classifier.input_size, self.classifier.batch_size):
            facts += self._group(group, images, attention)
        dying_point("infer")
        self.folder.write(
            shard, tables={FACTS: pa.Table.from_pylist(facts, REGIONS)}, began=began, device=str(self.device)
        )

    def _group(self, rows: list[int], images: Tensor, attention: AttentionMaps) -> list[dict[str, Any]]:
        side = self.classifier.input_size
        # The mean comes first in what is stored, as in the paper's maps.
        heads = torch.stack([attention.maps(row)[: 1 + HEADS] for row in rows])
        found = propose_boxes(enlarged(heads, side), min_size=self.regions.min_size)
        asked = [
            (number, place, k - 1)
            for number, place in enumerate(found.image.tolist())
            for k in self.index.class_ids[rows[place]]
        ]
        boxes, image, labels = (torch.tensor([one[k] for one in asked], dtype=torch.int64) for k in range(3))
        scores = score_boxes(
            self.network.model,
            to_input(images, self.classifier.normalise, self.device),
            image,
            found.boxes[boxes],
            labels,
            sigma=self.regions.blur * side,
            batch_size=self.classifier.batch_size,
            multi_label=self.multi_label,
        )
        facts = []
        for (number, place, label), score in zip(asked, scores.tolist(), strict=True):
            x0, y0, x1, y1 = found.boxes[number].tolist()
            named = {"row": rows[place], "image_id": self.index.ids[rows[place]], "class_id": label + 1}
            box = {"side": side, "x0": x0, "y0": y0, "x1": x1, "y1": y1, "area": (x1 - x0) * (y1 - y0) / side**2}
            drawn = {"head": int(found.map[number]) + MEAN, "fallback": bool(found.fallback[number])}
            facts.append({**named, **box, **drawn, "score": score})
        return ranked(facts)


def enlarged(heads: Tensor, side: int) -> Tensor:
    """Maps ``(B, M, h, w)`` on a square, each divided by its maximum."""
    maps = torch.nn.functional.interpolate(heads, (side, side), mode="bilinear", align_corners=False)
    return maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12)


def ranked(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Boxes by image, label and falling score, with their ``rank`` from 0; of equal ones the larger is first."""
    order = sorted(facts, key=lambda one: (one["row"], one["class_id"], -one["score"], -one["area"], one["head"]))
    counts: dict[tuple[int, int], int] = {}
    for one in order:
        key = (one["row"], one["class_id"])
        one["rank"] = counts.get(key, 0)
        counts[key] = one["rank"] + 1
    return order
