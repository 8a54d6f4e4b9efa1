"""Refine: labels and confidences from the stored soft maps, after every step of refinement."""

from prefect import flow

from configs.refine import prefixes
from flows.pool import run_work
from storage import keys
from storage.stages import StageFolder
from tasks.refine import RefineWork, begin_masks
from tasks.state import LabelSet, State


def mask_folders(state: State) -> None:
    """Name the label sets of every proposal."""
    state.label_sets = [_label_sets(state, folder, state.correlated.get(one.title)) for one, folder in state.proposals]


def _label_sets(state: State, proposal: StageFolder, correlated: StageFolder | None) -> list[LabelSet]:
    config = state.run.config
    sets = []
    for stage, steps in prefixes(config.refine, every=config.evaluate.steps):
        basis = keys.mask_basis(config, state.index, proposal, steps, correlated)
        sets.append(LabelSet(stage, steps, keys.stage_folder(state.run.workspace, "mask", basis)))
    return sets


@flow(name="refine", validate_parameters=False, persist_result=False)
def refine_flow(state: State) -> None:
    """Bring the label sets of every proposal up to date."""
    mask_folders(state)
    config, done = state.run.config, 0
    for (source, proposal), sets in zip(state.proposals, state.label_sets, strict=True):
        correlated = state.correlated.get(source.title)
        for one in sets:
            basis = keys.mask_basis(config, state.index, proposal, one.steps, correlated)
            begin_masks(one.folder, basis, state.index, state.index_stage)
        work = RefineWork(config, state.index, state.source(), proposal, correlated, sets)
        done += run_work(work, state.workers, state.shards)
    state.done["refine"] = done
