"""Propose: soft maps of every configured method from one recording per batch."""

from prefect import flow

from configs.refine import ScgStep
from flows.pool import run_work
from methods.networks import ClassifierNetwork, resolve_layers
from storage import keys
from storage.models import describe, weights_digest
from storage.stages import StageFolder
from tasks.correlate import correlation_grid
from tasks.images import probe_images
from tasks.maps import layers_of, map_grid
from tasks.network import as_computed, inference_network, load_network
from tasks.propose import Product, ProposeWork, begin_proposal
from tasks.state import State


def proposal_folders(state: State) -> None:
    """Name the folder of every proposal."""
    run = state.run
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    weights = weights_digest(state.model)
    bases = [(one, keys.proposal_basis(run.config, one, state.index, weights)) for one in run.config.all_proposals]
    state.proposals = [(one, keys.stage_folder(run.workspace, "propose", basis)) for one, basis in bases]
    state.correlated = [
        keys.stage_folder(run.workspace, "scg", keys.correlation_basis(run.config, step, folder))
        for step in run.config.refine[:1]
        for _, folder in state.proposals
        if isinstance(step, ScgStep)
    ]


@flow(name="propose", validate_parameters=False, persist_result=False)
def propose_flow(state: State) -> None:
    """Bring the soft maps of every proposal up to date, and those that self-correlation makes of them."""
    proposal_folders(state)
    products = [Product(one, folder) for one, folder in state.proposals]
    products += [Product(one, folder, True) for (one, _), folder in zip(state.proposals, state.correlated)]
    if all(one.folder.complete for one in products):
        state.done["propose"] = 0
        return
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    network = _begin(state, products)
    work = ProposeWork(
        state.run.config,
        state.index,
        network,
        state.source(),
        state.device,
        products,
        multi_label=bool(describe(state.model)["multi_label"]),
    )
    state.done["propose"] = run_work(work, state.network_workers, state.shards)


def _begin(state: State, products: list[Product]) -> ClassifierNetwork:
    """Begin the folders that are not there yet; returns the network as the run computes it."""
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    config, weights = state.run.config, weights_digest(state.model)
    trained = load_network(state.model, weights, state.device)
    probe = probe_images(config.classifier.input_size, state.device)
    step = config.refine[0]
    keep = {layer for one in products for layer in layers_of(trained, one.proposal)}
    keep |= set(resolve_layers(trained, step.layers)) if isinstance(step, ScgStep) else set()
    network = inference_network(trained, config.runtime, probe, keep)
    ready, sources = as_computed(probe, config.runtime), dict(zip(*_folders(state)))
    for one in products:
        if one.folder.exists:
            continue
        if one.correlated and isinstance(step, ScgStep):
            basis = keys.correlation_basis(config, step, sources[one.folder.name])
            grid = correlation_grid(network, step, ready)
        else:
            basis = keys.proposal_basis(config, one.proposal, state.index, weights)
            grid = map_grid(network, one.proposal, ready)
        begin_proposal(one.folder, basis, state.index, state.index_stage, grid)
    return network


def _folders(state: State) -> tuple[list[str], list[StageFolder]]:
    """Names of the correlated folders, and the proposals' folders they come from."""
    return [folder.name for folder in state.correlated], [folder for _, folder in state.proposals]
