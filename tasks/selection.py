"""Numbers of a decoder's maps on a validation split while it trains, to choose the epoch that is kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from configs.normalise import Normalise
from methods.metrics import BoxAccuracy, PixelAveragePrecision, scale_boxes
from methods.networks import UNet
from methods.refinement import otsu_masks
from storage.boxes import BoxStore
from storage.labels import LabelStore
from storage.truth import IGNORE, localization_truth
from tasks.images import ImageSource, to_input
from tasks.localize import SIDE


class SelectionError(ValueError):
    """A split that cannot choose an epoch."""


class Validator:
    """Measures foreground maps against the foreground of the ground truth, classes aside.

    Parameters
    ----------
    network
        Gives foreground maps.
    source
        Reads images.
    normalise, size, device, batch_size
        Of the network's input.
    rows
        Rows of the split; those without ground truth are passed over.
    truth, boxes
        Ground truth, what there is of it.
    split, where
        Name of the split and the section of the configuration, for messages.

    Raises
    ------
    SelectionError
        No row has a ground truth of the kind that ``select`` needs.
    """

    def __init__(
        self,
        network: UNet,
        source: ImageSource,
        normalise: Normalise,
        size: int,
        device: torch.device,
        batch_size: int,
        rows: Sequence[int],
        truth: LabelStore | None,
        boxes: BoxStore | None,
        *,
        select: str,
        split: str,
        where: str,
    ) -> None:
        self.network, self.source, self.normalise = network, source, normalise
        self.size, self.device, self.batch_size = size, device, batch_size
        self.select = select
        self.boxes = {} if boxes is None else {row: boxes.boxes(row) for row in rows if len(boxes.boxes(row))}
        self.masks: dict[int, Any] = {}
        for row in rows if truth is not None else ():
            mask = truth.mask(row)  # type: ignore[union-attr]
            if (mask != IGNORE).any():
                self.masks[row] = localization_truth(mask, SIDE)
        self.rows = sorted(self.boxes if select == "max_box_acc" else self.masks)
        if not self.rows:
            kind = "boxes" if select == "max_box_acc" else "masks"
            raise SelectionError(
                f"{where}: select: {select}: expected ground truth {kind} in the split {split!r}, saw none; name "
                "another select_split or leave select out"
            )
        self.sizes = source.index.sizes

    def __call__(self) -> dict[str, float]:
        """The number asked for, of the weights as they are now."""
        pixels, boxes, hit, either = PixelAveragePrecision(), BoxAccuracy(), 0, 0
        for group, images in self.source.batches(self.rows, self.size, self.batch_size):
            maps = self.network.foreground(to_input(images, self.normalise, self.device))
            scores = torch.nn.functional.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear")[:, 0].clamp(0, 1)
            if self.select == "max_box_acc":
                truth = [scale_boxes(self.boxes[row], self.sizes[row], SIDE) for row in group]
                boxes.update(scores.double().cpu().numpy(), truth)
                continue
            masks = np.stack([self.masks[row] for row in group])
            if self.select == "px_ap":
                pixels.update(scores.double().cpu().numpy(), masks)
                continue
            found, known = otsu_masks(scores).cpu().numpy(), masks != IGNORE
            hit += int((found & (masks == 1)).sum())
            either += int(((found | (masks == 1)) & known).sum())
        ratio = hit / either if either else float("nan")
        values = {"px_ap": pixels.compute()["px_ap"], "max_box_acc": boxes.compute()["max_box_acc"]}
        return {self.select: {**values, "fg_iou_pooled": ratio}[self.select]}
