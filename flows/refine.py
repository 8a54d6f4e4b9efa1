"""Refine: labels and confidences from the stored soft maps, after every step of refinement."""

from prefect import flow

from flows.pool import run_work
from storage import keys
from tasks.folders import name_masks
from tasks.refine import RefineWork, begin_masks
from tasks.state import State


@flow(name="refine", validate_parameters=False, persist_result=False)
def refine_flow(state: State) -> None:
    """Bring the label sets of every proposal up to date."""
    name_masks(state)
    config, done = state.run.config, 0
    for (source, proposal), sets in zip(state.proposals, state.label_sets, strict=True):
        correlated = state.correlated.get(source.title)
        for one in sets:
            basis = keys.mask_basis(config, state.index, proposal, one.steps, correlated)
            begin_masks(one.folder, basis, state.index, state.index_stage)
        work = RefineWork(config, state.index, state.source(), proposal, correlated, sets)
        done += run_work(work, state.workers, state.shards)
    state.done["refine"] = done
