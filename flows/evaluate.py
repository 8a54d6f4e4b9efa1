"""Evaluate: counts of every label set and of the floors against the ground truth, and the metric rows."""

from prefect import flow

from flows.pool import run_work
from storage import keys
from tasks.evaluate import EvaluateWork, FloorWork
from tasks.report import report_folder, write_metrics
from tasks.state import State


def evaluation_folders(state: State) -> None:
    """Name the counts of every label set; none where there is no ground truth."""
    run = state.run
    if state.truth is None:
        return
    truth = state.truth
    state.floors = keys.stage_folder(run.workspace, "floors", keys.evaluation_basis(run.config, truth, None))
    state.evaluations = [
        (one, keys.stage_folder(run.workspace, "evaluate", keys.evaluation_basis(run.config, truth, masks)))
        for one, masks in state.masks
    ]


@flow(name="evaluate", validate_parameters=False, persist_result=False)
def evaluate_flow(state: State) -> None:
    """Bring the counts and the metric table of a run up to date."""
    evaluation_folders(state)
    config, done = state.run.config, 0
    if state.truth is not None and state.floors is not None:
        truth = state.label_store(state.truth)
        basis = keys.evaluation_basis(config, state.truth, None)
        state.floors.begin(basis, shards=state.shards, classes=state.index.classes, index_stage=state.index_stage)
        done += run_work(FloorWork(config, truth, state.floors), state.workers, state.shards)
        for (_, proposal), (_, masks), (_, folder) in zip(state.proposals, state.masks, state.evaluations, strict=True):
            basis = keys.evaluation_basis(config, state.truth, masks)
            folder.begin(basis, shards=state.shards, classes=state.index.classes, index_stage=state.index_stage)
            work = EvaluateWork(config, truth, state.label_store(masks), proposal, folder)
            done += run_work(work, state.workers, state.shards)
    state.report = report_folder(state)
    done += write_metrics(state, state.report)
    state.done["evaluate"] = done
