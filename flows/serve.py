"""Serve: schedule runs from one process, for a laptop; nothing runs by the clock once it has ended.

Where no server answers one is started for as long as this lasts. Prefect pauses the deployment at the end, by Ctrl-C or
SIGTERM alike: starting it again goes on, and runs that were missed meanwhile are not made up for.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.cli import FAILED, FINISHED, REFUSED
from flows.commands import quiet_prefect, say
from flows.deploy import Order, accept
from flows.server import API, HOST, answers, api_url, free_port, server_arguments, server_environment, use_server

START_SECONDS = 120.0
STOP_SECONDS = 10.0


def serve_command(order: Order) -> int:
    """Start runs by the clock until Ctrl-C or SIGTERM."""
    quiet_prefect()
    if not accept(order):
        return REFUSED
    # A shell lets background jobs ignore Ctrl-C; this one has to end on SIGTERM, which becomes one below.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with reachable_server() as url, use_server(url):
            _serve(order, url)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        say(f"failed: {type(error).__name__}: {error}")
        return FAILED
    print(f"stopped    {order.title} is paused; start this again to go on")
    return FINISHED


@contextlib.contextmanager
def reachable_server() -> Iterator[str]:
    """Address of a server that answers: the one there is, else one that lives as long as the block.

    Raises
    ------
    RuntimeError
        The server that was started does not answer in time.
    """
    url = api_url()
    if answers(url) or os.environ.get(API):
        yield url
        return
    port = free_port()
    url = f"http://{HOST}:{port}/api"
    # In a session of its own: Ctrl-C at the terminal must not end it before the deployment is paused.
    with subprocess.Popen(
        server_arguments(port), env=server_environment(), stdout=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            until = time.monotonic() + START_SECONDS
            while not answers(url):
                if server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"a Prefect server at {url} did not start; see what `maskmill server` says")
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def _serve(order: Order, url: str) -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    from flows.run import maskmill_flow
    from flows.schedule import make_schedule, next_starts

    class Served(Runner):
        """A runner that pauses its deployments at SIGTERM too; Prefect's own forgets to wait for that."""

        def handle_sigterm(self, *_args: Any, **_options: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    schedule = make_schedule(order.cron, order.interval, order.timezone)
    runner = Served(name=order.title, pause_on_shutdown=True, limit=1)
    runner.add_flow(
        maskmill_flow,
        name=order.title,
        schedule=schedule,
        parameters=order.parameters(),
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    print(f"serves     {maskmill_flow.name}/{order.title} into {Path(order.parameters()['workspace'])}, server {url}")
    print(f"starts     {next_starts(schedule, 1)[0]:%Y-%m-%d %H:%M:%S %Z}, and so on until Ctrl-C", flush=True)
    asyncio.run(runner.start())
