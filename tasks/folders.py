"""Which folder each step of a run works in: names that follow from the configuration and from what is there already.

Steps, plan and the look for unfinished work all ask here, so that they cannot disagree.
"""

from pathlib import Path

from configs.affinity import Affinity
from configs.decoders import Decoder, DipsDecoder
from configs.recurseed import RecurSeed
from configs.refine import ScgStep, prefixes
from configs.segmentation import Segmenter
from storage import keys
from storage.models import weights_digest
from storage.stages import StageFolder, stage_key
from tasks.state import LabelSet, State

Named = tuple[StageFolder, keys.Basis]


def stage_of(state: State, stage: str, basis: keys.Basis) -> StageFolder:
    """Folder of a stage with this basis in the run's workspace."""
    return keys.stage_folder(state.run.workspace, stage, basis)


def name_classifier(state: State) -> Path:
    """Name the folder of the run's classifier."""
    basis = keys.classifier_basis(state.run.config, state.index)
    state.model = state.run.workspace.model("classifier", stage_key("classifier", basis))
    return state.model


def classifier_weights(state: State) -> str:
    """SHA-256 of the classifier's weights.

    Raises
    ------
    RuntimeError
        There is none yet.
    """
    if state.model is None:
        raise RuntimeError("expected a classifier; the classify step comes first")
    return weights_digest(state.model)


def name_transformer(state: State) -> Path | None:
    """Name the folder of the run's transformer; None for a run without one."""
    transformer = state.run.config.transformer
    if transformer is not None:
        basis = keys.transformer_basis(transformer, state.index)
        state.transformer = state.run.workspace.model("transformer", stage_key("transformer", basis))
    return state.transformer


def name_attention(state: State) -> Named:
    """Name the folder of the finished transformer's attention."""
    transformer = state.run.config.transformer
    if transformer is None or state.transformer is None:
        raise RuntimeError("expected a transformer; the attend step comes first")
    basis = keys.attention_basis(state.run.config, transformer, state.index, weights_digest(state.transformer))
    state.attended = stage_of(state, "attend", basis)
    return state.attended, basis


def name_proposals(state: State) -> None:
    """Name the folders of every proposal; those of attention only where the attention has a name."""
    config, weights = state.run.config, classifier_weights(state)
    made = {
        one.title: stage_of(state, "propose", keys.proposal_basis(config, one, state.index, weights))
        for one in config.class_proposals
    }
    if state.attended is not None:
        first = config.class_proposals[0].title
        for attention in config.attention_proposals:
            told_by = made[attention.classes or first]
            basis = keys.attention_proposal_basis(config, attention, state.attended, told_by)
            made[attention.title] = stage_of(state, "propose", basis)
    state.proposals = [(one, made[one.title]) for one in config.all_proposals if one.title in made]
    state.correlated = {}
    for one, folder in state.proposals:
        _name_correlated(state, one.title, folder)


def _name_correlated(state: State, title: str, proposal: StageFolder) -> None:
    step = state.run.config.refine[0]
    if isinstance(step, ScgStep):
        basis = keys.correlation_basis(state.run.config, step, proposal)
        state.correlated[title] = stage_of(state, "scg", basis)


def name_regions(state: State, decoder: DipsDecoder) -> Named:
    """Folder of the boxes that a decoder learns from."""
    if state.attended is None:
        raise RuntimeError("expected attention; the attend step comes first")
    basis = keys.region_basis(state.run.config, decoder, state.attended, classifier_weights(state))
    return stage_of(state, "regions", basis), basis


def teacher_of(state: State, decoder: Decoder) -> StageFolder:
    """Folder of what a decoder learns from: boxes, or the maps of a proposal."""
    return name_regions(state, decoder)[0] if isinstance(decoder, DipsDecoder) else state.proposal(decoder.proposal)


def name_decoder(state: State, place: int) -> Path:
    """Name the folder of a decoder's model."""
    decoder = state.run.config.decoders[place]
    truth = state.boxes if decoder.select == "max_box_acc" else state.truth
    teacher, weights = teacher_of(state, decoder), classifier_weights(state)
    name = truth.name if truth else None
    basis = keys.decoder_basis(state.run.config, decoder, state.index, teacher, weights, name)
    folder = state.run.workspace.model("decoder", stage_key("decoder", basis))
    state.decoders[decoder.title], state.bases[folder.name] = folder, basis
    if isinstance(decoder, DipsDecoder):
        state.regions[decoder.title] = teacher
    return folder


def name_decoded(state: State, place: int) -> Named:
    """Name the folder of a finished decoder's maps, a proposal like any other from now on."""
    config = state.run.config
    decoder = config.decoders[place]
    weights = weights_digest(state.decoders[decoder.title])
    if isinstance(decoder, Affinity):
        basis = keys.walked_basis(config, decoder, state.index, weights, teacher_of(state, decoder))
    else:
        basis = keys.decoded_basis(config, state.index, weights, state.scored)
    folder = stage_of(state, "propose", basis)
    state.proposals = [*(known for known in state.proposals if known[0].title != decoder.title), (decoder, folder)]
    _name_correlated(state, decoder.title, folder)
    return folder, basis


def name_masks(state: State) -> None:
    """Name the label sets of every proposal."""
    state.label_sets = [_label_sets(state, one.title, folder) for one, folder in state.proposals]


def _label_sets(state: State, title: str, proposal: StageFolder) -> list[LabelSet]:
    config, sets = state.run.config, []
    for stage, steps in prefixes(config.refine, every=config.evaluate.steps):
        basis = keys.mask_basis(config, state.index, proposal, steps, state.correlated.get(title))
        sets.append(LabelSet(stage, steps, stage_of(state, "mask", basis)))
    return sets


def labels_of(state: State, training: Segmenter | RecurSeed) -> StageFolder | None:
    """Label set that a network learns from; none for one that learns from image-level labels."""
    return state.labels(training.labels) if isinstance(training, Segmenter) else None


def name_segmenter(state: State, training: Segmenter | RecurSeed) -> Path:
    """Name the folder of a network that predicts masks."""
    basis = keys.segmenter_basis(
        state.run.config, training, state.index, labels_of(state, training), classifier_weights(state)
    )
    folder = state.run.workspace.model("segmenter", stage_key("segmenter", basis))
    state.segmenters[training.title], state.bases[folder.name] = folder, basis
    return folder


def name_predicted(state: State, training: Segmenter | RecurSeed) -> Named:
    """Name the label set of a finished network."""
    weights = weights_digest(state.segmenters[training.title])
    basis = keys.prediction_basis(state.run.config, training, state.index, weights, state.scored)
    folder = stage_of(state, "predict", basis)
    known = [one for one in state.predictions if one[0].title != training.title]
    state.predictions = [*known, (training, folder)]
    return folder, basis


def name_round_change(state: State, training: Segmenter) -> Named:
    """Name the counts of a round's masks against those it learned from."""
    before, after = state.labels(training.labels), state.labels(training.title)
    basis = keys.change_basis(state.run.config, before, after)
    folder = stage_of(state, "change", basis)
    state.round_changes[training.title] = folder
    return folder, basis
