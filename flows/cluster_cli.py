"""``maskmill cluster``: workers for runs with ``runtime.executor: dask``; nothing heavy is imported for ``--help``."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

cluster = App(name="cluster", help="Start workers that runs can spread their shards over.")

Port = Annotated[int, Parameter(help="Of the scheduler; 0: any that is free.")]


@cluster.command
def local(*, workers: int = 0, port: Port = 8786) -> int:
    """Start a scheduler and workers on this machine, until Ctrl-C.

    Parameters
    ----------
    workers
        How many processes, each with one thread; 0: one per core.
    """
    from flows.cluster_commands import local_command

    return local_command(workers, port)


@cluster.command
def slurm(
    *,
    workers: int,
    cpus: int = 1,
    memory: str = "8GB",
    walltime: str = "01:00:00",
    queue: str | None = None,
    account: str | None = None,
    gpus: int = 0,
    interface: str | None = None,
    logs: Path | None = None,
    port: Port = 8786,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Start a scheduler here and every worker as a Slurm job, until Ctrl-C.

    Parameters
    ----------
    workers
        How many jobs, each with one worker.
    cpus
        Of one job: for threads inside a computation (runtime.threads) and for decoding.
    memory
        Of one job; a worker that needs more is restarted.
    walltime
        Of one job.
    queue
        Partition.
    account
        Who pays.
    gpus
        Of one job, offered to shards as the resource GPU.
    interface
        Network that scheduler and workers share, such as ib0.
    logs
        Folder for the jobs' output.
    dry_run
        Print the job script; nothing is started.
    """
    from flows.cluster_commands import SlurmJobs, slurm_command

    jobs = SlurmJobs(cpus, memory, walltime, queue, account, gpus, interface, logs)
    return slurm_command(workers, jobs, port, dry=dry_run)
