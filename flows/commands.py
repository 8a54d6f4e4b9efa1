"""Commands that work on a workspace: quiet surroundings for Prefect, errors turned into exit statuses."""

import os
import sys
from pathlib import Path
from typing import Any

from configs import ConfigError, RunConfig, load_config
from configs.loader import PRESET_PREFIX
from flows.cli import FAILED, FINISHED, HELD, REFUSED
from flows.stop import Stop, stoppable

_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # One by one the embedded server's task records collide in SQLite with the start of the next flow, which then sleeps
    # for 2 to 14 seconds before it tries again.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr)


def quiet_prefect() -> None:
    """Settings for Prefect, where the environment has none; before its first import."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def default_workspace(config: str) -> Path:
    """Workspace of a configuration that names none."""
    return Path("workspaces") / Path(config.removeprefix(PRESET_PREFIX)).stem


def run_command(
    config: str, workspace: Path | None, limit: int | None, overrides: list[str], *, last: str, strict: bool
) -> int:
    """Run the steps up to ``last``; see the exit statuses in the README."""
    try:
        checked = load_config(config, overrides)
    except ConfigError as error:
        say(f"refused: {error}")
        return REFUSED
    if limit is not None and limit < 1:
        say(f"refused: --limit: expected a number of images from 1, saw {limit}")
        return REFUSED
    quiet_prefect()
    with stoppable() as stop:
        try:
            status = _run(checked, workspace or default_workspace(config), limit, last=last, strict=strict)
        except BaseException as error:
            return _failure(error, stop)
        stop.over.set()
        return status


def _run(config: RunConfig, workspace: Path, limit: int | None, *, last: str, strict: bool) -> int:
    # Prefect's embedded server must not start before torch is imported: torch could not be imported afterwards.
    import torch  # noqa: F401

    from flows.run import execute, outcome, run_steps
    from storage.workspace import Workspace
    from tasks.context import Run

    run = Run(config, Workspace(workspace), limit)
    return conclude(outcome(execute(run, last, run_steps)), strict=strict)


def _failure(error: BaseException, stop: Stop) -> int:
    """Say what ended a run; its exit status."""
    from storage.samples import StagingError
    from storage.weights import WeightsError
    from storage.workspace import WorkspaceHeldError
    from storage.writing import WriteError

    # After a signal anything may fail, most of all Prefect's embedded server, which may have got the signal too.
    if stop.wanted.is_set() or isinstance(error, KeyboardInterrupt):
        stop.tell()
        return FAILED
    match error:
        case WorkspaceHeldError():
            say(f"held: {error}")
            return HELD
        case ConfigError() | WeightsError():
            say(f"refused: {error}")
            return REFUSED
        case StagingError():
            say(f"failed while staging: {error}")
            return FAILED
        case WriteError():
            say(f"failed: {error}; what is committed stays, run again to go on")
            return FAILED
        case Exception():
            say(f"failed: {type(error).__name__}: {error}")
            say("what is committed stays; run again to go on")
            if os.environ.get("MASKMILL_TRACEBACK"):
                raise error
            return FAILED
        case _:
            raise error


def conclude(result: dict[str, Any], *, strict: bool) -> int:
    """Tell what a run came to."""
    if result["quarantined"]:
        say(f"{result['quarantined']} of {result['images']} images are quarantined; the report says why")
    if result["leaks"]:
        say(f"{result['leaks']} pairs of look-alike images lie in different splits; the report lists them")
    if result["report"]:
        from storage.files import read_table
        from storage.places import place
        from tasks.summary import text_summary

        page = place(result["report"])
        print(text_summary(read_table(page.parent / "metrics.parquet")))
        print(f"\nreport: {page}")
    return FAILED if strict and result["quarantined"] else FINISHED


def demo_command(folder: Path) -> int:
    """Make the demo's data set, then run on it."""
    from storage.demo_data import make_demo

    data = make_demo(folder / "data")
    return run_command("preset:demo", folder / "workspace", None, [f"dataset.root={data}"], last="report", strict=False)
