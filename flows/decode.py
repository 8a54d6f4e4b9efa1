"""Decode: train on stored proposals what makes better maps, and write these back as proposals of their own."""

import time
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from configs.affinity import Affinity
from configs.decoders import Decoder, DipsDecoder
from flows.pool import run_work
from flows.propose import correlate_maps
from flows.training import fit_told, took_over, train_alone
from methods.networks.affinity_net import grid_side
from storage.models import describe, is_saved, weights_digest
from storage.stages import StageFolder
from tasks.agnostic import AgnosticWork
from tasks.decoded import DecodedMaps, begin_decoded, load_decoder
from tasks.fit_affinity import fit_affinity
from tasks.fit_decoder import fit_decoder
from tasks.folders import classifier_weights, name_decoded, name_decoder, name_regions, teacher_of
from tasks.network import load_network, save_model
from tasks.processes import Fit
from tasks.regions import RegionWork
from tasks.state import State
from tasks.walked import EdgeMaps, WalkedWork, load_affinity


@flow(name="decode", validate_parameters=False, persist_result=False)
def decode_flow(state: State) -> None:
    """Bring every decoder of the run and its maps up to date."""
    done = 0
    for place, decoder in enumerate(state.run.config.decoders):
        done += _boxes(state, decoder)
        folder = name_decoder(state, place)
        splits = [*decoder.split, *([decoder.select_split] if decoder.select else [])]
        if not is_saved(folder) and not took_over(state, folder, splits):
            train_alone(state, make_decoder, state, decoder, folder)
            done += 1
        done += _maps(state, place)
    state.done["decode"] = done


def _boxes(state: State, decoder: Decoder) -> int:
    if not isinstance(decoder, DipsDecoder) or state.attended is None or state.model is None:
        return 0
    folder, basis = name_regions(state, decoder)
    folder.begin(basis, shards=state.shards, classes=state.index.classes, index_stage=state.index_stage)
    if folder.complete:
        return 0
    network = load_network(state.model, classifier_weights(state), state.device)
    work = RegionWork(
        state.run.config,
        decoder.regions,
        state.index,
        network,
        state.source(),
        state.device,
        state.attended,
        folder,
        multi_label=bool(describe(state.model)["multi_label"]),
    )
    return run_work(work, state.network_workers, state.shards)


@task(name="decoder", cache_policy=NO_CACHE, persist_result=False)
def make_decoder(state: State, decoder: Decoder, folder: Path) -> None:
    """Train a decoder and commit it; the state after each epoch survives a kill."""
    began = time.monotonic()
    fit = _fit(decoder, teacher_of(state, decoder))
    trained = fit_told(fit, state, folder, decoder.optimise, step="decode", title=decoder.title)
    save_model(folder, trained.weights, {"decoder": decoder.settings}, trained.history, began)


def _fit(decoder: Decoder, taught_by: StageFolder) -> Fit:
    if isinstance(decoder, Affinity):
        return partial(fit_affinity, affinity=decoder, taught_by=taught_by)
    return partial(fit_decoder, decoder=decoder, taught_by=taught_by)


def _maps(state: State, place: int) -> int:
    decoder, size = state.run.config.decoders[place], state.run.config.classifier.input_size
    folder, basis = name_decoded(state, place)
    side = grid_side(size) if isinstance(decoder, Affinity) else size
    begin_decoded(folder, basis, state.index, state.index_stage, side)
    done = 0 if folder.complete else run_work(_work(state, decoder, folder), state.network_workers, state.shards)
    return done + correlate_maps(state, decoder.title)


def _work(state: State, decoder: Decoder, folder: StageFolder) -> AgnosticWork:
    """The maps of a finished decoder, or those that a finished affinity network lets walk."""
    config, model = state.run.config, state.decoders[decoder.title]
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    classifier = load_network(state.model, classifier_weights(state), state.device)
    settings, shard_images = config.classifier, config.runtime.shard_images
    asked = (state.source(), settings.normalise, settings.input_size, settings.batch_size, state.device)
    if isinstance(decoder, Affinity):
        edges = EdgeMaps(load_affinity(model, weights_digest(model), decoder, classifier, state.device), *asked)
        return WalkedWork(state.index, folder, teacher_of(state, decoder), edges, decoder.walk, shard_images)
    network = load_decoder(model, weights_digest(model), decoder, classifier, state.device)
    return AgnosticWork(state.index, folder, state.scored, DecodedMaps(network, *asked), shard_images)
