"""What the steps of one run hand to each other."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.decoders import Decoder
from configs.proposals import Proposal
from configs.recurseed import RecurSeed
from configs.refine import Step
from configs.segmentation import GROUND_TRUTH, Segmenter
from storage.index import ImageIndex
from storage.labels import LabelStore
from storage.news import News
from storage.stages import StageFolder
from tasks.context import Run
from tasks.images import ImageSource, pick_device

Source = Proposal | Decoder
"""What makes soft maps: a proposal, or a decoder that learned from one."""
Labelled = tuple[Source, StageFolder]
Predicted = tuple[Segmenter | RecurSeed, StageFolder]
"""A network that predicts masks, and its label set."""


@dataclass(frozen=True)
class LabelSet:
    """Labels after some steps of refinement; ``stage`` is what metric rows call them."""

    stage: str
    steps: tuple[Step, ...]
    folder: StageFolder


def worker_count(wish: int) -> int:
    """Threads that do shards; 0 means one per core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wish or cores


class State:
    """Findings of the steps so far.

    A plain class on purpose: Prefect copies dataclasses that are handed to a flow, and what a step finds would be lost.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.staged: StageFolder | None = None
        self.truth: StageFolder | None = None
        self.boxes: StageFolder | None = None
        self.model: Path | None = None
        self.transformer: Path | None = None
        self.attended: StageFolder | None = None
        self.regions: dict[str, StageFolder] = {}
        self.decoders: dict[str, Path] = {}
        self.segmenters: dict[str, Path] = {}
        self.bases: dict[str, dict[str, Any]] = {}
        self.predictions: list[Predicted] = []
        self.round_changes: dict[str, StageFolder] = {}
        self.floors: StageFolder | None = None
        self.proposals: list[Labelled] = []
        self.correlated: dict[str, StageFolder] = {}
        self.label_sets: list[list[LabelSet]] = []
        self.counts: list[list[StageFolder]] = []
        self.prediction_counts: list[StageFolder] = []
        self.changes: list[list[StageFolder]] = []
        self.localized: list[StageFolder] = []
        self.floor_localized: StageFolder | None = None
        self.report: Path | None = None
        self.done: dict[str, int] = {}
        self.news: News | None = None
        self._index: ImageIndex | None = None
        self._source: ImageSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the reader of images, whose threads stay here: another process starts its own."""
        return {**self.__dict__, "_source": None}

    @property
    def index(self) -> ImageIndex:
        """The image index; staging comes first."""
        if self._index is None:
            raise RuntimeError("expected a staged data set; the stage step comes first")
        return self._index

    @index.setter
    def index(self, index: ImageIndex) -> None:
        self._index = index

    @property
    def scored(self) -> StageFolder:
        """The first proposal that the classifier made: its folder also has the classifier's logits."""
        first = self.run.config.class_proposals[0].title
        return next(folder for one, folder in self.proposals if one.title == first)

    def proposal(self, title: str | None) -> StageFolder:
        """Folder of a proposal by its name; none: the first that looks at classes."""
        if title is None:
            return self.scored
        return next(folder for one, folder in self.proposals if one.title == title)

    @property
    def refined(self) -> list[Labelled]:
        """The last label set of every proposal."""
        return [(one, sets[-1].folder) for (one, _), sets in zip(self.proposals, self.label_sets)]

    @property
    def masks(self) -> list[Labelled | Predicted]:
        """Those, and the label sets that networks predicted."""
        return [*self.refined, *self.predictions]

    @property
    def refined_counts(self) -> list[Labelled]:
        """The counts of every proposal's last label set."""
        return [(one, folders[-1]) for (one, _), folders in zip(self.proposals, self.counts)]

    @property
    def evaluations(self) -> list[Labelled | Predicted]:
        """Those, and the counts of what networks predicted."""
        predicted = [(one, folder) for (one, _), folder in zip(self.predictions, self.prediction_counts)]
        return [*self.refined_counts, *predicted]

    def labels(self, title: str | None) -> StageFolder:
        """A label set by the name of what made it; none: the first proposal's.

        Raises
        ------
        RuntimeError
            It is not there yet.
        """
        if title == GROUND_TRUTH and self.truth is not None:
            return self.truth
        for one, folder in self.masks:
            if title in (None, one.title):
                return folder
        raise RuntimeError(f"expected masks of {title or 'a proposal'}; the refine step comes first")

    @property
    def index_stage(self) -> str:
        """Name of the stage that keeps the index."""
        if self.staged is None:
            raise RuntimeError("expected a staged data set; the stage step comes first")
        return self.staged.name

    @property
    def shards(self) -> int:
        """Shards of the run."""
        return len(self.index.shards(self.run.config.runtime.shard_images))

    @property
    def device(self) -> torch.device:
        """Where networks compute."""
        return pick_device(self.run.config.runtime.device)

    @property
    def workers(self) -> int:
        """Threads for shards that need no accelerator."""
        return worker_count(self.run.config.runtime.workers)

    @property
    def network_workers(self) -> int:
        """Threads for shards that pass a network: one per accelerator, or one per core."""
        return self.workers if self.device.type == "cpu" else 1

    def source(self) -> ImageSource:
        """The reader of the index's images, the same for every step."""
        if self._source is None:
            self._source = ImageSource(self.run.root, self.index, self.run.config.dataset.max_pixels, self.workers)
        return self._source

    @property
    def folders(self) -> list[StageFolder]:
        """Every stage whose shards are images of the index, without repetition, in the order of a run."""
        found = [self.truth, self.boxes, self.attended, *self.regions.values(), *(one for _, one in self.proposals)]
        found += [*self.correlated.values(), *(one.folder for sets in self.label_sets for one in sets)]
        found += [*(one for _, one in self.predictions), *self.round_changes.values(), self.floors]
        found += [one for part in (*self.counts, *self.changes) for one in part]
        found += [*self.prediction_counts, self.floor_localized, *self.localized]
        return list({one.name: one for one in found if one is not None}.values())

    @property
    def localizes(self) -> bool:
        """Whether there is something to measure localization with, and it is asked for."""
        known = self.truth is not None or self.boxes is not None
        return known and self.run.config.evaluate.localization

    def label_store(self, folder: StageFolder) -> LabelStore:
        """A label set of this run."""
        return LabelStore(folder, self.index)
