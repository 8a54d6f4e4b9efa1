"""Training one network that predicts masks: on stored masks, or on image-level labels alone."""

from pathlib import Path

import torch
from torch import nn

from configs import ConfigError
from configs.recurseed import RecurSeed
from configs.schema import SMALLEST_VIEW
from configs.segmentation import GROUND_TRUTH, Segmenter
from methods.networks import ClassifierNetwork, JointNetwork, build_segmenter
from storage import keys
from storage.stages import StageFolder
from tasks.engine import Engine, Learner, Progress
from tasks.fit_decoder import own_classifier
from tasks.network import new_network
from tasks.processes import Trained
from tasks.recurseed import RecurSeedLearner, levels
from tasks.segment import SegmentLearner, labelled_batches, labelled_rows, start_network
from tasks.state import State
from tasks.taught import TeacherError

MOST_CLASSES = 254
"""Labels that a mask of 8 bits has room for, beside background and ignore."""


def new_segmenter(training: Segmenter | RecurSeed, classifier: ClassifierNetwork, classes: int) -> nn.Module:
    """The network of a training as it begins; what is drawn at random follows its seed.

    Raises
    ------
    ValueError
        An unknown network, or a backbone that it cannot use.
    """
    torch.manual_seed(training.optimise.seed)
    start = start_network(training, classifier, classes)
    if isinstance(training, Segmenter):
        return build_segmenter(training.model, start, classes, width=training.width)
    return JointNetwork(start, classes, width=training.width)


def fit_segmenter(
    state: State, checkpoint: Path, progress: Progress, *, training: Segmenter | RecurSeed, labels: StageFolder | None
) -> Trained:
    """Train a network that predicts masks, continuing from its checkpoint.

    Parameters
    ----------
    state
        A run with classifier, and with masks where they are learned.
    checkpoint
        Where the state after each epoch goes.
    progress
        Told after every epoch.
    training
        Its section of the configuration.
    labels
        Label set that is learned; none for a network that learns from image-level labels.

    Raises
    ------
    TeacherError
        Nothing to learn from.
    TrainingError
        A loss that is not finite.
    """
    config, settings = state.run.config, training.optimise
    section = "train" if training in config.segmenters else "recurse: train"
    where = f"{section}: {training.title}"
    network = new_segmenter(training, own_classifier(state), len(state.index.classes)).to(state.device)
    store = state.label_store(labels) if labels else None
    rows = keys.rows_of(state.index, training.split)
    known = labelled_rows(store, rows) if store else [row for row in rows if state.index.class_ids[row]]
    if len(known) < 2:
        raise TeacherError(
            f"{where}: expected at least two images to learn from in {', '.join(training.split)}, saw {len(known)} of "
            f"{len(rows)} with a label in {labels.name if labels else 'the data set'}"
        )
    side = training.side(config.classifier.input_size)
    batches = labelled_batches(
        state.source(),
        known,
        config.classifier.normalise,
        store=store,
        confidence=isinstance(training, Segmenter) and training.confidence,
        batch_size=settings.batch_size,
        resize=training.resize or round(side * 8 / 7),
        size=side,
        flip=training.flip,
        vertical=training.vertical_flip,
        seed=settings.seed,
    )
    learner = _learner(state, training, network)
    engine = Engine(learner, settings, state.device, where=f"{where}: optimise", ids=state.index.ids)
    history = engine.fit(batches, checkpoint, progress)
    return Trained(dict(network.state_dict()), history)


def _learner(state: State, training: Segmenter | RecurSeed, network: nn.Module) -> Learner:
    channels_last = state.run.config.runtime.channels_last
    if isinstance(training, RecurSeed) and isinstance(network, JointNetwork):
        return RecurSeedLearner(network, training, channels_last=channels_last)
    decay = training.optimise.weight_decay if training.groups else None
    return SegmentLearner(network, channels_last=channels_last, decay=decay)


def check_segmenters(state: State) -> None:
    """Refuse trainings that cannot begin, before anything is trained.

    Raises
    ------
    ConfigError
        An unknown network or split, more classes than a mask has room for, no ground truth to learn from, views of an
        image that are too small for a network, batches too small to be shared.
    """
    config = state.run.config
    for one in config.segmenters:
        _check(state, one, f"train: {one.title}")
    if config.recurse is not None:
        _check(state, config.recurse.train, "recurse: train")


def _check(state: State, training: Segmenter | RecurSeed, where: str) -> None:
    classifier, classes = state.run.config.classifier, len(state.index.classes)
    if classes > MOST_CLASSES:
        raise ConfigError(f"{where}: expected at most {MOST_CLASSES} classes, the data set has {classes}")
    seen = sorted(set(state.index.splits))
    for split in training.split:
        if split not in seen:
            raise ConfigError(f"{where}: split: expected one of {', '.join(seen)}, saw {split!r}")
    if isinstance(training, Segmenter) and training.labels == GROUND_TRUTH and state.truth is None:
        raise ConfigError(f"{where}: labels: expected a data set with ground truth masks, it has none")
    fit = training.optimise
    if fit.batch_size < 2 * fit.processes:
        raise ConfigError(
            f"{where}: optimise.batch_size: expected two images and more for each of {fit.processes} processes, saw "
            f"{fit.batch_size}"
        )
    smallest, side = min(training.inference.scales), training.side(classifier.input_size)
    if round(side * smallest) < SMALLEST_VIEW:
        raise ConfigError(
            f"{where}: inference.scales: expected images of {SMALLEST_VIEW} pixels a side and more, saw {smallest:g} "
            f"of {'' if training.input_size else 'classifier.'}input_size {side}"
        )
    try:
        network = new_segmenter(training, new_network(classifier, classes), classes)
        if isinstance(training, RecurSeed) and isinstance(network, JointNetwork):
            levels(network, training)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
