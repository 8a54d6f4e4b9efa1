"""Serve: schedule runs from one process, for a laptop; nothing runs by the clock once it has ended."""

from typing import Any

from flows.cli import FAILED, FINISHED, REFUSED
from flows.commands import quiet_prefect, say
from flows.deploy import Order, accept
from flows.server import answers, api_url


def serve_command(order: Order) -> int:
    """Start runs by the clock until Ctrl-C or SIGTERM, which pauses the deployment."""
    quiet_prefect()
    if not accept(order):
        return REFUSED
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    from flows.run import maskmill_flow
    from flows.schedule import make_schedule, next_starts

    schedule = make_schedule(order.cron, order.interval, order.timezone)
    starts = next_starts(schedule, 1)
    print(f"serves     {maskmill_flow.name}/{order.title} at {api_url()}, first {starts[0]:%Y-%m-%d %H:%M:%S %Z}")
    print("note       when this process ends, the deployment is paused; starting it again goes on", flush=True)
    settings: dict[str, Any] = {
        "schedule": schedule,
        "parameters": order.parameters(),
        "global_limit": ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        "limit": 1,
        "pause_on_shutdown": True,
        "print_starting_message": False,
    }
    try:
        maskmill_flow.serve(order.title, **settings)
    except Exception as error:
        gone = "" if answers(api_url()) else "; the server does not answer any more"
        say(f"failed: {type(error).__name__}: {error}{gone}")
        return FAILED
    return FINISHED
