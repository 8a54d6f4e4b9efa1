"""Propose: soft maps of every configured method from one recording per batch."""

from prefect import flow

from flows.pool import run_work
from storage import keys
from storage.models import describe, weights_digest
from tasks.images import probe_images
from tasks.maps import layers_of, map_grid
from tasks.network import as_computed, inference_network, load_network
from tasks.propose import ProposeWork, begin_proposal
from tasks.state import State


def proposal_folders(state: State) -> None:
    """Name the folder of every proposal."""
    run = state.run
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    weights = weights_digest(state.model)
    bases = [(one, keys.proposal_basis(run.config, one, state.index, weights)) for one in run.config.all_proposals]
    state.proposals = [(one, keys.stage_folder(run.workspace, "propose", basis)) for one, basis in bases]


@flow(name="propose", validate_parameters=False, persist_result=False)
def propose_flow(state: State) -> None:
    """Bring the soft maps of every proposal up to date."""
    proposal_folders(state)
    if all(folder.complete for _, folder in state.proposals):
        state.done["propose"] = 0
        return
    run = state.run
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    weights, runtime, size = weights_digest(state.model), run.config.runtime, run.config.classifier.input_size
    trained = load_network(state.model, weights, state.device)
    probe = probe_images(size, state.device)
    keep = {layer for one, _ in state.proposals for layer in layers_of(trained, one)}
    network = inference_network(trained, runtime, probe, keep)
    for one, folder in state.proposals:
        if not folder.exists:
            basis = keys.proposal_basis(run.config, one, state.index, weights)
            grid = map_grid(network, one, as_computed(probe, runtime))
            begin_proposal(folder, basis, state.index, state.index_stage, grid)
    work = ProposeWork(
        run.config,
        state.index,
        network,
        state.source(),
        state.device,
        state.proposals,
        multi_label=bool(describe(state.model)["multi_label"]),
    )
    state.done["propose"] = run_work(work, state.network_workers, state.shards)
