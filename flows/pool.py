"""Handing a step's shards to threads or processes: a bounded window in flight, every result asked for."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, cast

from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.progress import Bar, progress
from tasks.context import Work, unit
from tasks.state import State

WINDOW = 4
TRIAL = 2
"""Shards that are done here before others go to processes."""
Executor = Callable[[Work, list[int], Bar], None]


class Processes:
    """The worker processes of a run: somebody's cluster, or some of this machine's, started when first needed.

    Parameters
    ----------
    state
        The run.
    stack
        Closed at its end, and they end with it.
    """

    def __init__(self, state: State, stack: ExitStack) -> None:
        self._state, self._stack = state, stack

    @cached_property
    def do(self) -> Executor:
        """Does shards of a step."""
        # Half a second that a run without them does not wait for.
        from flows.cluster import cluster_of

        return self._stack.enter_context(cluster_of(self._state))

    @property
    def always(self) -> bool:
        """Whether they do every step; otherwise only what threads would take long for."""
        return self._state.run.config.runtime.executor == "dask"

    @property
    def after(self) -> float:
        """How long that is, in seconds."""
        return self._state.run.config.runtime.spawn_after


_processes: ContextVar[Processes | None] = ContextVar("processes", default=None)


@contextmanager
def spread(state: State) -> Iterator[None]:
    """Inside, the shards of every step go where the run's ``runtime.executor`` says."""
    with ExitStack() as stack:
        token = _processes.set(Processes(state, stack))
        try:
            yield
        finally:
            _processes.reset(token)


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
    todo, processes = work.missing(), _processes.get()
    with progress(work.title, len(todo), total - len(todo)) as bar:
        if processes and processes.always:
            _in_processes(processes, work, todo, bar)
        elif processes and work.in_python and workers > 1:
            # However many cores there are, threads would take as long as one, and a few shards tell how long that is.
            seconds, left = _in_threads(work, todo[:TRIAL], TRIAL, bar), todo[TRIAL:]
            if seconds / TRIAL * len(left) > processes.after:
                _in_processes(processes, work, left, bar)
            else:
                _in_threads(work, left, WINDOW * workers, bar)
        else:
            _in_threads(work, todo, WINDOW * workers, bar)
    return len(todo)


def _in_processes(processes: Processes, work: Work, todo: list[int], bar: Bar) -> None:
    if todo:
        processes.do(work, todo, bar)


def _in_threads(work: Work, todo: list[int], window: int, bar: Bar) -> float:
    """Returns the seconds that it took."""
    began = time.monotonic()
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
    return time.monotonic() - began
