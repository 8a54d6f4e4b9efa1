"""Recurse: label, train, label again, until a round changes little."""

from prefect import flow

from flows.pool import run_work
from flows.segment import segment
from tasks.evaluate import ChangeWork
from tasks.folders import name_round_change
from tasks.recursion import next_round
from tasks.state import State


@flow(name="recurse", validate_parameters=False, persist_result=False)
def recurse_flow(state: State) -> None:
    """Bring the rounds of a run up to date; each has a label set of its own, and how much it changed."""
    done = 0
    while (training := next_round(state)) is not None:
        done += segment(state, training)
        folder, basis = name_round_change(state, training)
        folder.begin(basis, shards=state.shards, classes=state.index.classes, index_stage=state.index_stage)
        before, after = (state.label_store(state.labels(title)) for title in (training.labels, training.title))
        done += run_work(ChangeWork(state.run.config, before, after, folder), state.workers, state.shards)
    state.done["recurse"] = done
