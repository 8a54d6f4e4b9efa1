"""Run: stage, classify, propose, refine, evaluate, report, each resuming what its workspace holds."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from configs import load_config
from flows.attend import attend_flow
from flows.classify import classify_flow
from flows.dead import close_dead_runs
from flows.decode import decode_flow
from flows.evaluate import evaluate_flow
from flows.failures import told
from flows.pool import spread, thread_runner, without_heartbeat
from flows.propose import propose_flow
from flows.recurse import recurse_flow
from flows.refine import refine_flow
from flows.report import report_flow
from flows.resume import finished
from flows.segment import segment_flow
from flows.stage import stage_flow
from flows.threads import set_threads
from flows.uses import used_folders
from storage.aside import all_aside
from storage.history import remember
from storage.staged import count_leaks
from storage.workspace import Workspace, WorkspaceHeldError
from tasks.chain import check_packages
from tasks.context import Run
from tasks.malloc import keep_memory
from tasks.state import State

STEPS = ("stage", "classify", "attend", "propose", "decode", "refine", "segment", "recurse", "evaluate", "report")
_FLOWS: dict[str, Any] = {
    "stage": stage_flow,
    "classify": classify_flow,
    "attend": attend_flow,
    "propose": propose_flow,
    "decode": decode_flow,
    "refine": refine_flow,
    "segment": segment_flow,
    "recurse": recurse_flow,
    "evaluate": evaluate_flow,
    "report": report_flow,
}
_NETWORK = {"classify", "attend", "propose", "decode", "segment", "recurse"}
_PACKAGES = (
    "maskmill",
    "torch",
    "torchvision",
    "timm",
    "prefect",
    "zarr",
    "numpy",
    "pillow",
    "scikit-image",
    "pyarrow",
)


@flow(name="run", validate_parameters=False, persist_result=False)
def run_steps(state: State, last: str) -> None:
    """Do the steps up to ``last``."""
    with without_heartbeat(), spread(state):
        for step in STEPS[: STEPS.index(last) + 1]:
            workers = state.network_workers if step in _NETWORK else state.workers
            set_threads(state.run.config, workers)
            _FLOWS[step].with_options(task_runner=thread_runner(workers))(state)


@flow(name="maskmill", persist_result=False)
def maskmill_flow(
    config: str, workspace: str, limit: int | None = None, overrides: list[str] | None = None, last: str = "report"
) -> dict[str, Any]:
    """A whole run from plain parameters: what a schedule or a deployment calls.

    Parameters
    ----------
    config
        Path of a YAML file, or ``preset:NAME``.
    workspace
        Folder of the run.
    limit
        At most this many images.
    overrides
        ``section.key=value`` texts.
    last
        Step to end with.

    Returns
    -------
    dict
        Units of work done per step, number of quarantined images, path of the report.

    Raises
    ------
    WorkspaceHeldError
        Another run holds the workspace.
    """
    run = Run(load_config(config, overrides or []), Workspace(Path(workspace)), limit)
    try:
        result = outcome(execute(run, last, run_steps))
    except WorkspaceHeldError:
        raise
    except Exception:
        close_dead_runs()
        raise
    # At the end: the server gives back the slot of each run that is closed, even of one that had lost it before.
    close_dead_runs()
    return result


def execute(run: Run, last: str, steps: Callable[[State, str], Any]) -> State:
    """Hold the workspace, do the steps, and record the run; where nothing is left to do no flow is started."""
    check_packages(run.config)
    keep_memory()
    with run.workspace.hold(), told(run.workspace):
        state = finished(run, STEPS[: STEPS.index(last) + 1])
        if state is None:
            state = State(run)
            # The heartbeat's thread sleeps in whole seconds, and every flow waits for its own to end.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                steps(state, last)
        run.workspace.write_run(describe_run(state))
        facts = {"images": len(state.index), "news": state.news.counts if state.news else None, "done": state.done}
        remember(run.workspace, last, used_folders(state), facts)
    return state


def describe_run(state: State) -> dict[str, Any]:
    """What ``run.json`` says: configuration, versions, keys."""
    return {
        "config": state.run.config.model_dump(mode="json"),
        "limit": state.run.limit,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "index_stage": state.index_stage,
        "news": state.news.counts if state.news else None,
        "truth": state.truth.name if state.truth else None,
        "model": state.model.name if state.model else None,
        "transformer": state.transformer.name if state.transformer else None,
        "decoders": [folder.name for folder in state.decoders.values()],
        "segmenters": [folder.name for folder in state.segmenters.values()],
        "proposals": [folder.name for _, folder in state.proposals],
        "labels": [folder.name for _, folder in state.masks],
        "methods": [one.title for one, _ in state.masks],
        "report": state.report.name if state.report else None,
    }


def outcome(state: State) -> dict[str, Any]:
    """What a run came to, in plain values."""
    return {
        "done": dict(state.done),
        "images": len(state.index),
        "quarantined": int((~state.index.ok).sum()) + len({row for one in state.folders for row in all_aside(one)}),
        "leaks": count_leaks(state.staged) if state.staged else 0,
        "report": str(state.report / "report.html") if state.report and "report" in state.done else None,
    }
