"""What every task of a run needs to know, and the one Prefect task that carries a unit of work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs import RunConfig
from storage.stages import StageFolder
from storage.workspace import Workspace


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

    def missing(self) -> list[int]:
        """Numbers of the shards to do."""

    def __call__(self, shard: int) -> None:
        """Do one shard, commit record included."""


class FolderWork:
    """Base of the work whose shards are those of one folder."""

    folder: StageFolder

    def missing(self) -> list[int]:
        """Shards of the folder that are not committed."""
        return self.folder.missing()


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
def unit(work: Callable[[int], None], shard: int, title: str) -> None:  # noqa: ARG001
    """One unit of work: it reads through storage, calls a method, writes through storage; ``title`` names its run."""
    work(shard)
