"""A cluster on this machine: a scheduler on loopback and worker processes of one thread each, one of them per GPU."""

import logging
import os
from typing import Any

import dask
import torch
from distributed import Nanny, Scheduler, SpecCluster

LOOPBACK = "127.0.0.1"
DEATHS = 3
"""A shard that killed so many workers is looked into, see :mod:`flows.alone`."""
GPU = "GPU"
GRACE = 0.5
_ENVIRON = "distributed.nanny.pre-spawn-environ."
_SETTINGS = {
    _ENVIRON + "DASK_LOGGING__DISTRIBUTED": "critical",
    # A hundred samples a second of what a worker does, fifty looks at the clock of every process: shards take seconds.
    _ENVIRON + "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",
    _ENVIRON + "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "distributed.admin.tick.interval": "1s",
    # On a busy machine a new worker takes longer than the 15 s after which dask would give its place up.
    "distributed.deploy.lost-worker-timeout": "1h",
    # A worker here that is gone closes its connections; one that is silent only waits for a core.
    "distributed.scheduler.worker-ttl": None,
}


class KeepingNanny(Nanny):
    """Replaces a worker however it went, and at the end waits no longer than one without anything to lose deserves.

    A worker with torch in it would take seconds to leave, though whatever it has done is in the store.
    """

    ending = False
    """Whether the cluster ends; before, a worker that takes leave (a library calls ``sys.exit``) is replaced too."""

    def close_gracefully(self, reason: str = "nanny-close-gracefully") -> None:
        """Asked for by the worker when it closes by itself."""
        if self.ending:
            super().close_gracefully(reason=reason)

    async def close(self, timeout: float | None = None, reason: str = "nanny-close") -> Any:  # noqa: ARG002
        """End the worker, by a signal if it has to be."""
        return await super().close(timeout=GRACE, reason=reason)


class LocalCluster(SpecCluster):
    """A scheduler and nannies in this process."""

    async def _close(self) -> None:
        for nanny in self.workers.values():
            nanny.ending = True
        await super()._close()  # type: ignore[no-untyped-call]


def scheduler_options() -> dict[str, Any]:
    """Of every scheduler that is started here: no dashboard, and when a shard has killed enough workers."""
    # Its server for health and metrics starts all the same: for this machine alone, on any port.
    return {"dashboard": False, "dashboard_address": f"{LOOPBACK}:0", "allowed_failures": DEATHS - 1}


def start_cluster(workers: int, *, port: int = 0, cuda: bool = False) -> Any:
    """Start a scheduler and workers; a worker that dies is replaced, and all end with this process.

    Parameters
    ----------
    workers
        How many processes.
    port
        Of the scheduler; 0: any that is free.
    cuda
        Give the first workers a GPU each, and offer it as the resource ``GPU``; the others see none.
    """
    # What goes wrong reaches the run, which tells of it once. ``silence_logs`` does not reach what Prefect configured.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    scheduler = {"cls": Scheduler, "options": {"host": LOOPBACK, "port": port, **scheduler_options()}}
    gpus = _visible() if cuda else []
    # Without a limit on memory: dask's own would kill a worker at its share of the machine, used or not.
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "host": LOOPBACK, "dashboard": False}
    specified: dict[int, dict[str, Any]] = {}
    for number in range(workers):
        own: dict[str, Any] = {}
        if cuda:
            own["env"] = {"CUDA_VISIBLE_DEVICES": gpus[number] if number < len(gpus) else ""}
        if number < len(gpus):
            own["resources"] = {GPU: 1}
        specified[number] = {"cls": KeepingNanny, "options": {**options, **own}}
    # For as long as the process lives: the first two are asked for whenever a worker dies.
    dask.config.set(_SETTINGS)
    return LocalCluster(  # type: ignore[no-untyped-call]
        scheduler=scheduler, workers=specified, silence_logs=logging.CRITICAL
    )


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
