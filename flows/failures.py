"""What ended a run, kept in its workspace: a nightly run has nobody who reads its terminal."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from storage.workspace import Workspace
from tasks.context import unit


@contextmanager
def told(workspace: Workspace) -> Iterator[None]:
    """Record a failure of the block in the workspace, which the caller holds; a signal is none."""
    workspace.forget_failure()
    try:
        yield
    except Exception as error:
        if not by_signal(error):
            workspace.write_failure(failed_unit(error), error)
        raise


def failed_unit(error: BaseException) -> str:
    """Step and shard that an error came from, empty where it did not come from a shard."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is unit.fn.__code__:
            return f"{frame.f_locals['title']}, shard {frame.f_locals['shard']}"
    return ""


def by_signal(error: BaseException) -> bool:
    """Whether an error came up while a signal was answered: Prefect asks a server that the same signal ended."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        if not isinstance(now, Exception):
            return True
        seen.add(id(now))
        now = now.__context__
    return False
