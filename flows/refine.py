"""Refine: masks and confidences from the stored soft maps."""

from prefect import flow

from flows.pool import run_work
from storage import keys
from tasks.refine import RefineWork, begin_masks
from tasks.state import State


def mask_folders(state: State) -> None:
    """Name the label set of every proposal."""
    run = state.run
    state.masks = [
        (one, keys.stage_folder(run.workspace, "mask", keys.mask_basis(run.config, state.index, folder)))
        for one, folder in state.proposals
    ]


@flow(name="refine", validate_parameters=False, persist_result=False)
def refine_flow(state: State) -> None:
    """Bring the masks of every proposal up to date."""
    mask_folders(state)
    done = 0
    for (_, proposal), (_, folder) in zip(state.proposals, state.masks, strict=True):
        begin_masks(folder, keys.mask_basis(state.run.config, state.index, proposal), state.index, state.index_stage)
        done += run_work(RefineWork(state.run.config, state.index, proposal, folder), state.workers, state.shards)
    state.done["refine"] = done
