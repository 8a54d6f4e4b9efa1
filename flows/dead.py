"""Runs that died without a word: their server still calls them running, and nobody but the next run can know better.

A worker reports a run that was killed. Where the worker or the whole machine went with it nobody does, and the server
waits for ever. The next run of the deployment holds the workspace, so whatever came before it has ended.
"""

import contextlib

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.states import Crashed

MESSAGE = "Ended without a word: a later run of this deployment found its workspace free."
_LIVING = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))


def close_dead_runs() -> int:
    """Tell the server that earlier runs of this run's deployment have crashed if it still thinks they run.

    Returns
    -------
    int
        How many there were, parts of them counted too; 0 outside of a deployment, or where the server does not answer
        (the run matters more).
    """
    context = FlowRunContext.get()
    own = context.flow_run if context else None
    if own is None or own.deployment_id is None or own.expected_start_time is None:
        return 0
    earlier = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[own.deployment_id]),
        state=_LIVING,
        expected_start_time=FlowRunFilterExpectedStartTime(before_=own.expected_start_time),
    )
    closed = 0
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        dead = [one.id for one in client.read_flow_runs(flow_run_filter=earlier) if one.id != own.id]
        while dead:
            for one in dead:
                client.set_flow_run_state(one, Crashed(message=MESSAGE), force=True)
            closed += len(dead)
            parts = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=dead), state=_LIVING)
            dead = [one.id for one in client.read_flow_runs(flow_run_filter=parts)]
    return closed
