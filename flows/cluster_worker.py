"""What a worker process of a cluster runs: it gets the work of a stage once, and then numbers of shards.

Everything heavy is imported when the first shard arrives: a worker that opens a parcel on its event loop would be taken
for dead.
"""

import gc
import platform
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar

from distributed import Worker, WorkerPlugin, get_worker

PAUSES = (1.0, 4.0)
"""Seconds before a shard is tried again after trouble with files: a network's file system comes back."""
PACKAGES = (
    "maskmill",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "scikit-image",
    "zarr",
    "pyarrow",
    "cloudpickle",
)
Result = TypeVar("Result")


class StagePlugin(WorkerPlugin):
    """The work of one stage on one worker, unpacked by its first shard; workers that come later get it too.

    Parameters
    ----------
    parcel, network
        The parts of a :class:`flows.parcel.Parcel`.
    threads
        Threads inside one computation: as many as where the run was started, or the last bits would differ.
    """

    def __init__(self, parcel: bytes, threads: int, *, network: bool) -> None:
        self.parcel, self.threads, self.network = parcel, threads, network
        self._work: Any = None
        self._guard: threading.Lock | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_work": None, "_guard": None}

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        """Called on arrival."""
        self._guard = threading.Lock()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        """Called when the stage has ended: networks leave the memory."""
        self._work = None
        if self.network:
            # Half a second with torch in the process: only for what is large.
            gc.collect()

    def work(self) -> Any:
        """The work, in a thread that is about to use it."""
        import torch

        from flows.parcel import unpack
        from tasks.malloc import keep_memory

        if self._guard is None:
            raise RuntimeError("expected a stage on a worker; its shards run nowhere else")
        with self._guard:
            if self._work is None:
                keep_memory()
                self._work = unpack(self.parcel)
        torch.set_num_threads(self.threads)
        return self._work


def do_shard(stage: str, shard: int) -> None:
    """Do and commit one shard; the store keeps everything."""
    from tasks.turns import turn

    work = _plugin(stage).work()

    def once() -> None:
        with turn(work.device):
            work(shard)

    patiently(once)


def do_shard_alone(stage: str, shard: int) -> list[int]:
    """The same for a shard that killed its workers, see :mod:`flows.alone`; returns the rows that it leaves out."""
    from flows.alone import do_alone

    plugin = _plugin(stage)
    return sorted(do_alone(plugin.work(), plugin.parcel, plugin.threads, shard))


def patiently(call: Callable[[], Result], pauses: tuple[float, ...] = PAUSES) -> Result:
    """Call again after a pause where files make trouble; only that may go away by itself.

    Raises
    ------
    OSError
        The last one.

    Examples
    --------
    >>> answers = iter([OSError("gone"), 7])
    >>> def ask() -> int:
    ...     answer = next(answers)
    ...     if isinstance(answer, OSError):
    ...         raise answer
    ...     return answer
    >>> patiently(ask, pauses=(0.0,))
    7
    """
    for pause in pauses:
        try:
            return call()
        except OSError:
            time.sleep(pause)
    return call()


def running(prefix: str, dask_worker: Worker) -> int:
    """How many shards of stages with this prefix a worker computes at the moment, cancelled ones among them."""
    return sum(str(task.key).startswith(prefix) for task in dask_worker.state.all_running_tasks)


def stages(prefix: str, dask_worker: Worker) -> list[str]:
    """Stages with this prefix that a worker knows."""
    return [name for name in dask_worker.plugins if name.startswith(prefix)]


async def forget(stage: str, dask_worker: Worker) -> None:
    """Remove a stage from a worker that may have it."""
    if stage in dask_worker.plugins:
        await dask_worker.plugin_remove(stage)


def packages() -> dict[str, str]:
    """Versions of what decides the bytes of a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def held(dask_worker: Worker) -> tuple[int, int]:
    """How many results and stages a worker keeps."""
    return len(dask_worker.data), sum(isinstance(one, StagePlugin) for one in dask_worker.plugins.values())


def _plugin(stage: str) -> StagePlugin:
    plugin = get_worker().plugins[stage]
    if not isinstance(plugin, StagePlugin):
        raise TypeError(f"{stage}: expected the work of a stage, saw {type(plugin).__name__}")
    return plugin
