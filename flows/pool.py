"""Handing a step's shards to Prefect tasks: a bounded window in flight, every result asked for."""

from collections import deque
from typing import Any, cast

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.progress import progress
from tasks.context import Work, unit

WINDOW = 4


def thread_runner(workers: int) -> TaskRunner[PrefectFuture[Any]]:
    """The task runner of a step."""
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=workers))


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
