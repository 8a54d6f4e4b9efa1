"""Training one affinity network on the stored maps of a run."""

from pathlib import Path

from configs.affinity import Affinity
from storage import keys
from storage.stages import StageFolder
from tasks.affinity import AffinityLearner, LabelTeacher, affinity_parts, label_batches, new_affinity
from tasks.engine import Engine, Progress
from tasks.fit_decoder import own_classifier
from tasks.processes import Trained
from tasks.state import State
from tasks.taught import MapTeacher, check_teacher, require_lessons


def fit_affinity(
    state: State, checkpoint: Path, progress: Progress, *, affinity: Affinity, taught_by: StageFolder
) -> Trained:
    """Train an affinity network, continuing from its checkpoint where there is one.

    Parameters
    ----------
    state
        A run with classifier and proposals.
    checkpoint
        Where the state after each epoch goes.
    progress
        Told after every epoch.
    affinity
        Its section of the configuration.
    taught_by
        Maps of a proposal.

    Returns
    -------
    Trained
        Weights of :func:`tasks.affinity.affinity_parts`.

    Raises
    ------
    TeacherError
        Nothing to learn from: maps of another data set, or no image of the splits has one.
    TrainingError
        A loss that is not finite.
    PairGridError
        Images without room for a pair.
    """
    where, config, settings = f"train: {affinity.title}", state.run.config.classifier, affinity.optimise
    check_teacher(taught_by, state.index, state.index_stage, where)
    rows = keys.rows_of(state.index, affinity.split)
    maps = MapTeacher(taught_by, rows)
    require_lessons(maps, rows, affinity.split, taught_by, where)
    network = new_affinity(affinity, own_classifier(state)).to(state.device)
    channels_last = state.run.config.runtime.channels_last
    learner = AffinityLearner(network, affinity, config.normalise, channels_last=channels_last)
    batches = label_batches(
        state.source(),
        LabelTeacher(maps, affinity),
        batch_size=settings.batch_size,
        resize=affinity.resize or round(config.input_size * 8 / 7),
        size=config.input_size,
        flip=affinity.flip,
        seed=settings.seed,
    )
    engine = Engine(learner, settings, state.device, where=f"{where}: optimise", ids=state.index.ids)
    history = engine.fit(batches, checkpoint, progress)
    return Trained(dict(affinity_parts(network).state_dict()), history)
