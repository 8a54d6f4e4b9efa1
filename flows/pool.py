"""Handing a step's shards to Prefect tasks: a bounded window in flight, every result asked for."""

from collections import deque
from contextlib import AbstractContextManager
from typing import Any, cast

from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.progress import progress
from tasks.context import Work, unit

WINDOW = 4


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
    todo = work.missing()
    waiting: deque[PrefectFuture[None]] = deque()
    with progress(work.title, len(todo), total - len(todo)) as bar:
        for shard in todo:
            waiting.append(unit.submit(work, shard, work.title))
            if len(waiting) >= WINDOW * workers:
                waiting.popleft().result()
                bar.step()
        while waiting:
            # result(), not wait(): a worker that was killed would leave the flow Completed.
            waiting.popleft().result()
            bar.step()
    return len(todo)
