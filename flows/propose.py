"""Propose: soft maps of every configured method from one recording per batch."""

from prefect import flow

from configs.proposals import AttentionProposal
from configs.refine import ScgStep
from flows.pool import run_work
from methods.networks import ClassifierNetwork, resolve_layers
from storage import keys
from storage.models import describe, weights_digest
from tasks.agnostic import AgnosticWork, HeadMaps
from tasks.attend import BLOCKS, MEAN, attention_grid
from tasks.correlate import correlation_grid
from tasks.correlate_work import CorrelateWork
from tasks.folders import name_proposals
from tasks.images import probe_images
from tasks.maps import layers_of, map_grid
from tasks.network import as_computed, inference_network, load_network
from tasks.propose import Product, ProposeWork, begin_proposal
from tasks.state import State


@flow(name="propose", validate_parameters=False, persist_result=False)
def propose_flow(state: State) -> None:
    """Bring the soft maps of every proposal up to date, and those that self-correlation makes of them."""
    name_proposals(state)
    done = _class_maps(state)
    for one in state.run.config.attention_proposals:
        done += _attention_maps(state, one)
    state.done["propose"] = done


def _class_maps(state: State) -> int:
    """Maps of the proposals that the classifier makes."""
    titles = {one.title: one for one in state.run.config.class_proposals}
    products = [Product(titles[one.title], folder) for one, folder in state.proposals if one.title in titles]
    products += [Product(one, state.correlated[title], True) for title, one in titles.items() if state.correlated]
    if all(one.folder.complete for one in products):
        return 0
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
    return run_work(work, state.network_workers, state.shards)


def _attention_maps(state: State, one: AttentionProposal) -> int:
    """Maps of one proposal from the transformer's attention."""
    if state.attended is None:
        raise RuntimeError("expected attention; the attend step comes first")
    folder, classes = state.proposal(one.title), state.proposal(one.classes)
    basis = keys.attention_proposal_basis(state.run.config, one, state.attended, classes)
    begin_proposal(folder, basis, state.index, state.index_stage, attention_grid(state.attended))
    last = MEAN if one.head == "mean" else one.head
    maps = HeadMaps(state.attended, BLOCKS if one.method == "ts_cam" else last)
    size = state.run.config.runtime.shard_images
    work = AgnosticWork(state.index, folder, classes, maps, size, always=one.method == "ts_cam")
    return run_work(work, state.workers, state.shards) + correlate_maps(state, one.title)


def correlate_maps(state: State, title: str) -> int:
    """Self-correlation of maps that the classifier's pass did not make; it has to look at the images for it."""
    step, config = state.run.config.refine[0], state.run.config
    if not isinstance(step, ScgStep) or state.model is None:
        return 0
    folder, proposal = state.correlated[title], state.proposal(title)
    trained = load_network(state.model, weights_digest(state.model), state.device)
    probe = probe_images(config.classifier.input_size, state.device)
    network = inference_network(trained, config.runtime, probe, set(resolve_layers(trained, step.layers)))
    grid = correlation_grid(network, step, as_computed(probe, config.runtime))
    basis = keys.correlation_basis(config, step, proposal)
    begin_proposal(folder, basis, state.index, state.index_stage, grid)
    work = CorrelateWork(config, state.index, network, state.source(), state.device, step, proposal, folder)
    return run_work(work, state.network_workers, state.shards)


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
    ready = as_computed(probe, config.runtime)
    for one in products:
        if one.folder.exists:
            continue
        if one.correlated and isinstance(step, ScgStep):
            basis = keys.correlation_basis(config, step, state.proposal(one.proposal.title))
            grid = correlation_grid(network, step, ready)
        else:
            basis = keys.proposal_basis(config, one.proposal, state.index, weights)
            grid = map_grid(network, one.proposal, ready)
        begin_proposal(one.folder, basis, state.index, state.index_stage, grid)
    return network
