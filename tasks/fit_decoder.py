"""Training one decoder on the stored maps or boxes of a run."""

import copy
from dataclasses import replace
from pathlib import Path

from configs import ConfigError
from configs.affinity import Affinity
from configs.decoders import Decoder, DipsDecoder, PixelDecoder
from methods.networks import ClassifierNetwork, UNet, build_classifier
from storage import keys
from storage.boxes import BoxStore
from storage.models import describe, weights_digest
from storage.stages import StageFolder
from tasks.affinity import check_affinity
from tasks.decode import DecoderLearner, new_decoder, trained_parts
from tasks.engine import Engine, Progress
from tasks.network import load_network
from tasks.processes import Trained
from tasks.selection import Validator
from tasks.state import State
from tasks.taught import BoxTeacher, MapTeacher, Teacher, check_teacher, lesson_batches, require_lessons


def fit_decoder(
    state: State, checkpoint: Path, progress: Progress, *, decoder: PixelDecoder, taught_by: StageFolder
) -> Trained:
    """Train a decoder, continuing from its checkpoint where there is one.

    Parameters
    ----------
    state
        A run with classifier and proposals.
    checkpoint
        Where the state after each epoch goes.
    progress
        Told after every epoch.
    decoder
        Its section of the configuration.
    taught_by
        Maps of a proposal, or boxes.

    Returns
    -------
    Trained
        Weights of :func:`tasks.decode.trained_parts`.

    Raises
    ------
    TeacherError
        Nothing to learn from: maps of another data set, or no image of the splits has one.
    TrainingError
        A loss that is not finite.
    ValueError
        Images smaller than what is cut out of them.
    """
    where = f"train: {decoder.title}"
    teacher = _teacher(state, decoder, taught_by, where)
    classifier = own_classifier(state)
    network = new_decoder(decoder, classifier).to(state.device)
    response = classifier.model.to(state.device) if isinstance(decoder, DipsDecoder) else None
    config = state.run.config.classifier
    multi_label = bool(describe(state.model)["multi_label"]) if state.model else False
    learner = DecoderLearner(
        network,
        decoder,
        config.normalise,
        response,
        multi_label=multi_label,
        channels_last=state.run.config.runtime.channels_last,
    )
    settings = decoder.optimise
    batches = lesson_batches(
        state.source(),
        teacher,
        batch_size=settings.batch_size,
        resize=decoder.resize or round(config.input_size * 8 / 7),
        size=config.input_size,
        flip=decoder.flip,
        seed=settings.seed,
    )
    validate = _validator(state, decoder, network, where) if decoder.select else None
    engine = Engine(
        learner,
        settings,
        state.device,
        where=f"{where}: optimise",
        ids=state.index.ids,
        validate=validate,
        select=decoder.select or "",
    )
    history = engine.fit(batches, checkpoint, progress)
    return Trained(dict(trained_parts(network).state_dict()), history)


def check_decoders(state: State) -> None:
    """Refuse decoders and affinity networks that cannot be built, before anything is trained.

    Raises
    ------
    ConfigError
        Unknown layers, networks or splits, another number of widths than of layers, nothing to choose an epoch by,
        images too small for the pairs of an affinity network.
    """
    config = state.run.config
    if not config.decoders:
        return
    classifier = build_classifier(config.classifier.backbone, len(state.index.classes), head=config.classifier.head)
    for place, decoder in enumerate(config.decoders):
        copied = replace(classifier, model=copy.deepcopy(classifier.model))
        try:
            if isinstance(decoder, Affinity):
                check_affinity(decoder, copied, config.classifier.input_size)
            else:
                new_decoder(decoder, copied)
        except ValueError as error:
            raise ConfigError(f"train.{place} ({decoder.title}): {error}") from error
        _check_splits(state, decoder, f"train.{place} ({decoder.title})")


def _check_splits(state: State, decoder: Decoder, where: str) -> None:
    seen = sorted(set(state.index.splits))
    for key, split in [*(("split", one) for one in decoder.split), ("select_split", decoder.select_split)]:
        if split not in seen and (key == "split" or decoder.select):
            raise ConfigError(f"{where}: {key}: expected one of {', '.join(seen)}, saw {split!r}")
    truth, kind = (state.boxes, "boxes") if decoder.select == "max_box_acc" else (state.truth, "masks")
    if decoder.select and truth is None:
        raise ConfigError(f"{where}: select: {decoder.select}: expected ground truth {kind}, the data set has none")


def own_classifier(state: State) -> ClassifierNetwork:
    """A copy of the run's classifier: training must not reach the one that every step shares."""
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    shared = load_network(state.model, weights_digest(state.model), state.device)
    return replace(shared, model=copy.deepcopy(shared.model))


def _teacher(state: State, decoder: PixelDecoder, taught_by: StageFolder, where: str) -> Teacher:
    check_teacher(taught_by, state.index, state.index_stage, where)
    rows = keys.rows_of(state.index, decoder.split)
    teacher: Teacher
    if isinstance(decoder, DipsDecoder):
        if state.attended is None:
            raise RuntimeError("expected attention; the attend step comes first")
        teacher = BoxTeacher(taught_by, state.attended, rows, decoder.regions.top)
    else:
        teacher = MapTeacher(taught_by, rows)
    require_lessons(teacher, rows, decoder.split, taught_by, where)
    return teacher


def _validator(state: State, decoder: PixelDecoder, network: UNet, where: str) -> Validator:
    config = state.run.config.classifier
    return Validator(
        network,
        state.source(),
        config.normalise,
        config.input_size,
        state.device,
        config.batch_size,
        keys.rows_of(state.index, [decoder.select_split]),
        state.label_store(state.truth) if state.truth else None,
        BoxStore(state.boxes, state.index) if state.boxes else None,
        select=str(decoder.select),
        split=decoder.select_split,
        where=where,
    )
