"""Handing a step's shards to Prefect tasks: a bounded window in flight, every result asked for."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, cast

from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.progress import Bar, progress
from tasks.context import Work, unit
from tasks.state import State

WINDOW = 4
Executor = Callable[[Work, list[int], Bar], None]
_executor: ContextVar[Executor | None] = ContextVar("executor", default=None)
"""Does the shards of the flows that run inside; none: the threads of the flow's task runner."""


@contextmanager
def spread(state: State) -> Iterator[None]:
    """Inside, the shards of every step go where the run's ``runtime.executor`` says."""
    if state.run.config.runtime.executor == "local":
        yield
        return
    # Half a second that a run on this process alone does not wait for.
    from flows.cluster import cluster_of

    with cluster_of(state) as cluster:
        token = _executor.set(cluster)
        try:
            yield
        finally:
            _executor.reset(token)


def thread_runner(workers: int) -> TaskRunner[PrefectFuture[Any]]:
    """The task runner of a step."""
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=workers))


def without_heartbeat() -> AbstractContextManager[Any]:
    """Flows started inside send no heartbeats: each would end by waiting for a thread that sleeps up to a second.

    The flow around them still does, so that Prefect can tell a dead run.
    """
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def run_work(work: Work, workers: int, total: int) -> int:
    """Do the missing shards of a step inside a flow; returns how many there were.

    Parameters
    ----------
    work
        The step.
    workers
        Threads of the flow's task runner.
    total
        Shards of the step, for the progress line.

    Raises
    ------
    Exception
        The first failure, after the shards in flight have ended; what is committed stays committed.
    """
    todo, executor = work.missing(), _executor.get()
    with progress(work.title, len(todo), total - len(todo)) as bar:
        if executor is None:
            _in_threads(work, todo, WINDOW * workers, bar)
        elif todo:
            executor(work, todo, bar)
    return len(todo)


def _in_threads(work: Work, todo: list[int], window: int, bar: Bar) -> None:
    waiting: deque[PrefectFuture[None]] = deque()
    for shard in todo:
        waiting.append(unit.submit(work, shard, work.title))
        if len(waiting) >= window:
            waiting.popleft().result()
            bar.step()
    while waiting:
        # result(), not wait(): a worker that was killed would leave the flow Completed.
        waiting.popleft().result()
        bar.step()
