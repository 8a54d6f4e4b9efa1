"""Commands that start workers and keep them until they are stopped."""

import contextlib
import importlib
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from flows.cli import FAILED, FINISHED, REFUSED
from flows.commands import say

_OFF = "export DASK_DISTRIBUTED__WORKER__{}=false"
REFILL = 60
"""Seconds after which a job that has ended, by its walltime or a fault, is missed."""
_PLACEHOLDER = "tcp://SCHEDULER:8786"


class SlurmJobs(NamedTuple):
    """What one job of a worker asks Slurm for; see ``maskmill cluster slurm --help``."""

    cpus: int = 1
    memory: str = "8GB"
    walltime: str = "01:00:00"
    queue: str | None = None
    account: str | None = None
    gpus: int = 0
    interface: str | None = None
    logs: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of dask-jobqueue."""
        resources = ["--resources", f"GPU={self.gpus}"] if self.gpus else []
        return {
            "job_name": "maskmill",
            # One shard at a time, whatever the CPUs: threads are for the inside of a computation.
            "cores": 1,
            "processes": 1,
            "job_cpu": self.cpus,
            "memory": self.memory,
            "walltime": self.walltime,
            "queue": self.queue,
            "account": self.account,
            "interface": self.interface,
            "log_directory": str(self.logs) if self.logs else None,
            "python": sys.executable,
            "job_extra_directives": [f"--gres=gpu:{self.gpus}"] if self.gpus else [],
            "worker_extra_args": ["--no-dashboard", *resources],
            # A worker keeps the memory it has had (tasks.malloc): one that paused for it would pause for good.
            "job_script_prologue": [
                *(_OFF.format(f"MEMORY__{name}") for name in ("TARGET", "SPILL", "PAUSE")),
                _OFF.format("PROFILE__ENABLED"),
            ],
        }


def local_command(workers: int, port: int) -> int:
    """A scheduler and workers on this machine."""
    import torch

    from flows.cluster_start import start_cluster
    from tasks.state import worker_count

    if workers < 0:
        say(f"refused: --workers: expected a number from 0, saw {workers}")
        return REFUSED
    gpus = torch.cuda.is_available()
    try:
        cluster = start_cluster(worker_count(workers), port=port, cuda=gpus)
    except OSError as error:
        say(f"failed: no scheduler on port {port}: {error}")
        return FAILED
    return _keep(cluster, f"{worker_count(workers)} workers on this machine", gpus=gpus)


def slurm_command(workers: int, jobs: SlurmJobs, port: int, *, dry: bool) -> int:
    """A scheduler here, and workers as Slurm jobs."""
    try:
        slurm: Any = importlib.import_module("dask_jobqueue").SLURMCluster
    except ImportError:
        say("refused: expected the package dask-jobqueue; pip install -e '.[slurm]' in the checkout")
        return REFUSED
    if workers < 1 or jobs.cpus < 1 or jobs.gpus < 0:
        say(f"refused: expected --workers and --cpus from 1, --gpus from 0, saw {workers}, {jobs.cpus} and {jobs.gpus}")
        return REFUSED
    if dry:
        print(slurm.job_cls(_PLACEHOLDER, "maskmill-0", **jobs.options).job_script())
        return FINISHED
    import dask

    from flows.cluster_start import scheduler_options

    dask.config.set({"distributed.deploy.lost-worker-timeout": f"{REFILL}s"})
    try:
        cluster = slurm(n_workers=workers, scheduler_options={"port": port, **scheduler_options()}, **jobs.options)
    except (OSError, RuntimeError) as error:
        say(f"failed: {error}")
        return FAILED
    return _keep(cluster, f"{workers} Slurm jobs", gpus=jobs.gpus > 0, jobs=workers)


def usage(address: str, *, gpus: bool) -> str:
    """How a run is told to use a cluster."""
    resources = " runtime.resources.network='{GPU: 1}'" if gpus else ""
    return f"maskmill run CONFIG --set runtime.executor=dask runtime.address={address}{resources}"


def _keep(cluster: Any, what: str, *, gpus: bool, jobs: int = 0) -> int:
    """Tell how to use a cluster and wait for Ctrl-C; ``jobs`` that have ended are submitted again."""
    print(f"scheduler  {cluster.scheduler_address}")
    print(f"workers    {what}, one thread each")
    print(f"use it     {usage(cluster.scheduler_address, gpus=gpus)}")
    print("Ctrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while not threading.Event().wait(REFILL):
            if jobs:
                cluster.scale(jobs=jobs)
    cluster.close()
    return FINISHED
