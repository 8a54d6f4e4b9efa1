"""Evaluate: counts of every label set and of the floors against the ground truth, and the metric rows."""

from itertools import pairwise

from prefect import flow

from flows.pool import run_work
from storage import keys
from storage.boxes import BoxStore
from storage.stages import StageFolder
from tasks.evaluate import ChangeWork, EvaluateWork, FloorWork
from tasks.localize import LocalizeWork
from tasks.report import report_folder, write_metrics
from tasks.state import LabelSet, State

_Counting = ChangeWork | EvaluateWork | FloorWork | LocalizeWork


def evaluation_folders(state: State) -> None:
    """Name the counts of every label set against the one before it, and where there is ground truth against that."""
    state.changes = [
        [_folder(state, "change", keys.change_basis(state.run.config, a.folder, b.folder)) for a, b in _steps(sets)]
        for sets in state.label_sets
    ]
    if state.localizes:
        state.floor_localized = _folder(state, "localize", _localization_basis(state))
        sets = zip(state.proposals, state.refined, strict=True)
        state.localized = [
            _folder(state, "localize", _localization_basis(state, proposal, masks))
            for (_, proposal), (_, masks) in sets
        ]
    if state.truth is None:
        return
    state.floors = _folder(state, "floors", keys.evaluation_basis(state.run.config, state.truth, None))
    state.counts = [[_folder(state, "evaluate", _basis(state, one, sets)) for one in sets] for sets in state.label_sets]
    state.prediction_counts = [
        _folder(state, "evaluate", _prediction_basis(state, folder)) for _, folder in state.predictions
    ]


def _folder(state: State, stage: str, basis: keys.Basis) -> StageFolder:
    return keys.stage_folder(state.run.workspace, stage, basis)


def _basis(state: State, one: LabelSet, sets: list[LabelSet]) -> keys.Basis:
    if state.truth is None:
        raise RuntimeError("expected ground truth; the stage step finds it")
    return keys.evaluation_basis(state.run.config, state.truth, one.folder, final=one is sets[-1])


def _prediction_basis(state: State, labels: StageFolder) -> keys.Basis:
    if state.truth is None:
        raise RuntimeError("expected ground truth; the stage step finds it")
    return keys.evaluation_basis(state.run.config, state.truth, labels, final=False)


def _localization_basis(
    state: State, proposal: StageFolder | None = None, labels: StageFolder | None = None
) -> keys.Basis:
    return keys.localization_basis(state.run.config, state.truth, state.boxes, proposal, labels)


def _steps(sets: list[LabelSet]) -> list[tuple[LabelSet, LabelSet]]:
    return list(pairwise(sets))


@flow(name="evaluate", validate_parameters=False, persist_result=False)
def evaluate_flow(state: State) -> None:
    """Bring the counts and the metric table of a run up to date."""
    evaluation_folders(state)
    done = sum(_run(state, work, basis) for work, basis in _works(state))
    state.report = report_folder(state)
    done += write_metrics(state, state.report)
    state.done["evaluate"] = done


def _run(state: State, work: _Counting, basis: keys.Basis) -> int:
    work.folder.begin(basis, shards=state.shards, classes=state.index.classes, index_stage=state.index_stage)
    return run_work(work, state.workers, state.shards)


def _works(state: State) -> list[tuple[_Counting, keys.Basis]]:
    config = state.run.config
    works: list[tuple[_Counting, keys.Basis]] = []
    for sets, changes in zip(state.label_sets, state.changes, strict=True):
        for (before, after), folder in zip(_steps(sets), changes, strict=True):
            work = ChangeWork(config, state.label_store(before.folder), state.label_store(after.folder), folder)
            works.append((work, keys.change_basis(config, before.folder, after.folder)))
    works += _localization_works(state)
    if state.truth is None or state.floors is None:
        return works
    truth = state.label_store(state.truth)
    works.append((FloorWork(config, truth, state.floors), keys.evaluation_basis(config, state.truth, None)))
    for (_, proposal), sets, counts in zip(state.proposals, state.label_sets, state.counts, strict=True):
        for one, folder in zip(sets, counts, strict=True):
            curve = config.evaluate.curve and one is sets[-1]
            labels = state.label_store(one.folder)
            works.append(
                (
                    EvaluateWork(truth, labels, proposal, folder, config.runtime.shard_images, curve=curve),
                    _basis(state, one, sets),
                )
            )
    for (_, predicted), folder in zip(state.predictions, state.prediction_counts, strict=True):
        count = EvaluateWork(truth, state.label_store(predicted), None, folder, config.runtime.shard_images)
        works.append((count, _prediction_basis(state, predicted)))
    return works


def _localization_works(state: State) -> list[tuple[_Counting, keys.Basis]]:
    if state.floor_localized is None:
        return []
    config, index = state.run.config, state.index
    boxes = BoxStore(state.boxes, index) if state.boxes else None
    truth = state.label_store(state.truth) if state.truth else None
    floors = LocalizeWork(config, index, boxes, truth, state.floor_localized)
    works: list[tuple[_Counting, keys.Basis]] = [(floors, _localization_basis(state))]
    for (_, proposal), (_, masks), folder in zip(state.proposals, state.refined, state.localized, strict=True):
        labels = state.label_store(masks)
        work = LocalizeWork(config, index, boxes, truth, folder, proposal=proposal, labels=labels)
        works.append((work, _localization_basis(state, proposal, masks)))
    return works
