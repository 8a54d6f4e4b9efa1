"""What every task of a run needs to know, and the one Prefect task that carries a unit of work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from configs import RunConfig
from storage.aside import read_aside
from storage.index import ImageIndex, Shard
from storage.stages import StageFolder, unit_name
from storage.workspace import Workspace
from tasks.turns import CPU, turn


@dataclass(frozen=True)
class Run:
    """A configuration on a workspace, perhaps cut down to ``limit`` images."""

    config: RunConfig
    workspace: Workspace
    limit: int | None = None

    @property
    def root(self) -> Path:
        """The data root."""
        return self.config.dataset.root


class Work(Protocol):
    """The shards of one step: which are to be done, and how to do one.

    Implementations are plain classes: Prefect walks through dataclasses that are handed to a task, which would cost
    more than the work itself on a large index.
    """

    @property
    def title(self) -> str:
        """Name of the step, for people."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def in_python(self) -> bool:
        """Whether it mostly holds Python's lock, so that threads keep one another waiting."""

    @property
    def folders(self) -> Sequence[StageFolder]:
        """Where the shards go."""

    def missing(self) -> list[int]:
        """Numbers of the shards to do."""

    def __call__(self, shard: int) -> None:
        """Do one shard, commit record included."""


class ShardWork:
    """Base of the work on the images of an index, of which a few may have to be left out.

    What becomes of such an image is for the step to say: a map that is not finite, a mask that says nothing.
    """

    title: str
    device: torch.device = CPU
    in_python: bool = False
    index: ImageIndex
    shards: list[Shard]
    only: int | None = None
    """The one row that is worked on, where the image is looked for that kills the process."""

    @property
    def folders(self) -> Sequence[StageFolder]:
        """Where the shards go."""
        raise NotImplementedError

    def missing(self) -> list[int]:
        """Shards that at least one of the folders lacks."""
        return sorted({shard for folder in self.folders for shard in folder.missing()})

    def images(self, shard: int) -> list[int]:
        """Rows of a shard that can be worked on, those that have to be left out among them."""
        return self.index.working_rows(self.shards[shard])

    def left_out(self, shard: int) -> dict[int, str]:
        """Rows of a shard to leave out, with the reasons."""
        if self.only is not None:
            return {row: "not tried" for row in self.images(shard) if row != self.only}
        return {row: reason for folder in self.folders for row, reason in read_aside(folder, shard).items()}

    def lacking(self, shard: int) -> list[StageFolder]:
        """Folders in which a shard is not committed."""
        return [folder for folder in self.folders if not folder.log.path(unit_name(shard)).exists()]


class FolderWork(ShardWork):
    """Base of the work whose shards are those of one folder."""

    folder: StageFolder

    @property
    def folders(self) -> Sequence[StageFolder]:
        """The one folder."""
        return [self.folder]


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Only trouble with files and devices may go away by itself; wrong data stays wrong."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError)


@task(
    name="unit",
    task_run_name="{title}-{shard}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=1,
    retry_condition_fn=_is_transient,
    persist_result=False,
    log_prints=False,
)
def unit(work: Work, shard: int, title: str) -> None:  # noqa: ARG001
    """One unit of work: it reads through storage, calls a method, writes through storage; ``title`` names its run."""
    with turn(work.device):
        work(shard)
