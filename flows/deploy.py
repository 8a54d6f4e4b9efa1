"""Deploy: have a Prefect server start runs by the clock, in the processes of a worker.

The deployment carries absolute paths and plain parameters only. One run at a time: a start that falls into a run that
still goes on is cancelled, for that run will find the same images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from configs import ConfigError, RunConfig, load_config
from configs.loader import PRESET_PREFIX
from flows.cli import FAILED, FINISHED, REFUSED
from flows.commands import _QUIET, default_workspace, quiet_prefect, say
from flows.server import need_server, use_server
from storage.places import place

ENTRYPOINT = "flows.run.maskmill_flow"
SHOWN = 3


@dataclass(frozen=True)
class Order:
    """What shall be run, as a person said it at the command line."""

    config: str
    workspace: Path | None
    limit: int | None
    overrides: list[str]
    cron: str | None
    interval: float | None
    timezone: str | None
    name: str | None

    @property
    def title(self) -> str:
        """Name of the deployment: what was given, else that of the configuration."""
        return self.name or Path(self.config.removeprefix(PRESET_PREFIX)).stem

    def parameters(self) -> dict[str, Any]:
        """Parameters of :func:`flows.run.maskmill_flow`, whose paths mean the same wherever a worker stands."""
        preset = self.config.startswith(PRESET_PREFIX)
        return {
            "config": self.config if preset else str(Path(self.config).absolute()),
            "workspace": str(place(self.workspace or default_workspace(self.config))),
            "limit": self.limit,
            "overrides": self.overrides,
        }

    def check(self) -> RunConfig:
        """Read the configuration as a run would, before anything is registered.

        Raises
        ------
        ConfigError, WeightsError
            As a run would.
        ValueError
            A schedule or a limit that cannot be.
        """
        from flows.schedule import make_schedule
        from storage.weights import find_weights
        from tasks.chain import check_packages

        config = load_config(self.config, self.overrides)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit: expected a number of images from 1, saw {self.limit}")
        check_packages(config)
        find_weights(config.classifier.weights)
        make_schedule(self.cron, self.interval, self.timezone)
        return config


def deploy_command(order: Order, pool: str) -> int:
    """Register a scheduled deployment, with its pool where there is none; see the exit statuses in the README."""
    quiet_prefect()
    if not accept(order):
        return REFUSED
    url = need_server()
    if url is None:
        return FAILED
    from flows.schedule import make_schedule, next_starts

    schedule = make_schedule(order.cron, order.interval, order.timezone)
    try:
        with use_server(url):
            made = ensure_pool(pool)
            full_name = register(order, pool)
    except Exception as error:
        say(f"failed: {url} did not take the deployment: {error}")
        return FAILED
    print(f"pool       {pool}{' (new)' if made else ''}")
    print(f"deployed   {full_name} into {order.parameters()['workspace']}")
    starts = [f"{start:%Y-%m-%d %H:%M:%S %Z}" for start in next_starts(schedule, SHOWN)]
    print(f"starts     {', '.join(starts)}, ...")
    print(f"next       maskmill worker{'' if pool == 'maskmill' else f' --pool {pool}'}, on this machine, if none runs")
    return FINISHED


def accept(order: Order) -> bool:
    """Check what was ordered, and say why it is refused."""
    from storage.weights import WeightsError

    try:
        order.check()
    except (ConfigError, WeightsError, ValueError) as error:
        say(f"refused: {error}")
        return False
    return True


def ensure_pool(name: str) -> bool:
    """Make a process work pool unless it is there; returns whether it was made."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(name).type
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            return True
    if kind != "process":
        raise ValueError(f"--pool {name}: expected a pool of type process, it is of type {kind}")
    return False


def register(order: Order, pool: str) -> str:
    """Create or update the deployment; returns its full name."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows.run import maskmill_flow
    from flows.schedule import make_schedule

    made = maskmill_flow.to_deployment(
        order.title,
        schedule=make_schedule(order.cron, order.interval, order.timezone),
        parameters=order.parameters(),
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        work_pool_name=pool,
        # Relative paths in a configuration mean the folder of whoever deployed it, as they do for `maskmill run`.
        job_variables={"working_dir": str(Path.cwd()), "env": {**_QUIET, "PREFECT_LOGGING_LEVEL": "WARNING"}},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment = cast(RunnerDeployment, made)
    deployment.apply()
    return deployment.full_name
