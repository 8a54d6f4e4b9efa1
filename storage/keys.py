"""What every stage depends on, in one place: its basis, and so its key.

A basis holds the stage's own configuration and the keys of what it reads, never names shown to people, devices, thread
counts or time stamps.
"""

from collections.abc import Sequence
from typing import Any

from configs.affinity import Affinity
from configs.decoders import Decoder, DipsDecoder
from configs.proposals import AttentionProposal, Proposal
from configs.recurseed import RecurSeed
from configs.refine import ScgStep, Step
from configs.schema import RunConfig
from configs.segmentation import Segmenter
from configs.transformer import Transformer
from storage.files import file_digest
from storage.index import ImageIndex
from storage.stages import StageFolder, stage_key
from storage.weights import find_weights
from storage.workspace import Workspace

Basis = dict[str, Any]
_INPUT = ("backbone", "head", "input_size", "normalise", "keep_stride")
"""What a classifier computes depends on beside its weights."""


def stage_folder(workspace: Workspace, stage: str, basis: Basis) -> StageFolder:
    """Folder of a stage with this basis."""
    return workspace.stage(stage, stage_key(stage, basis))


def listing_basis(config: RunConfig, listing_digest: str) -> Basis:
    """Of the staged data set; where it lies does not matter, what is in it does."""
    return {"dataset": config.dataset.model_dump(mode="json", exclude={"root"}), "listing": listing_digest}


def truth_basis(config: RunConfig, index: ImageIndex, masks: str) -> Basis:
    """Of the ground truth; ``masks`` is a digest over kinds and contents of all masks."""
    return {"index": index.key, "masks": masks, "shard_images": config.runtime.shard_images}


def classifier_basis(config: RunConfig, index: ImageIndex) -> Basis:
    """Of the classifier: its settings, its weight files, and the images it trains on (none if it comes trained)."""
    classifier = config.classifier
    settings = classifier.model_dump(mode="json", exclude={"batch_size", "weights", "trained"})
    if classifier.trained is not None:
        settings = {key: settings[key] for key in _INPUT}
        return {"classifier": settings, "classes": list(index.classes), "trained": file_digest(classifier.trained)}
    if classifier.frozen:
        settings["train"].pop("augment")
    rows = training_rows(config, index)
    return {
        "classifier": settings,
        "images": index.subset_key(rows),
        "weights": find_weights(classifier.weights).identity,
    }


def training_rows(config: RunConfig, index: ImageIndex) -> list[int]:
    """Rows the classifier trains on."""
    return rows_of(index, config.classifier.train_split)


def rows_of(index: ImageIndex, splits: Sequence[str]) -> list[int]:
    """Rows of some splits that can be worked on."""
    return [row for row in range(len(index)) if index.ok[row] and index.splits[row] in splits]


def feature_basis(config: RunConfig, index: ImageIndex, rows: list[int]) -> Basis:
    """Of the features that a frozen backbone gives for some rows."""
    names = {*_INPUT, "batch_size"} - {"head"}
    seed = None if config.classifier.weights else config.classifier.train.seed
    return {
        "input": config.classifier.model_dump(mode="json", include=names),
        "images": index.subset_key(rows),
        "weights": find_weights(config.classifier.weights).identity,
        "seed": seed,
        "shard_images": config.runtime.shard_images,
    }


def proposal_basis(config: RunConfig, proposal: Proposal, index: ImageIndex, weights: str) -> Basis:
    """Of one proposal's soft maps; ``weights`` is the SHA-256 of the classifier's weights."""
    return {
        "proposal": proposal.settings,
        "index": index.key,
        "weights": weights,
        "input": config.classifier.model_dump(mode="json", include={*_INPUT, "batch_size"}),
        "arithmetic": config.runtime.model_dump(
            mode="json", include={"precision", "channels_last", "fold_batch_norm", "compile"}
        ),
        "shard_images": config.runtime.shard_images,
    }


def transformer_basis(transformer: Transformer, index: ImageIndex) -> Basis:
    """Of the transformer: its weights as given, or what it is pretrained with and on."""
    names = {"backbone", "input_size", "normalise", "pretrain"}
    basis: Basis = {
        "transformer": transformer.model_dump(mode="json", include=names),
        "weights": find_weights(transformer.weights).identity,
    }
    if transformer.pretrain is not None:
        rows = rows_of(index, transformer.pretrain.split)
        basis["images"] = index.subset_key(rows)
    return basis


def attention_basis(config: RunConfig, transformer: Transformer, index: ImageIndex, weights: str) -> Basis:
    """Of the attention of every image; ``weights`` is the SHA-256 of the transformer's."""
    names = {"backbone", "input_size", "normalise", "batch_size"}
    return {
        "transformer": transformer.model_dump(mode="json", include=names),
        "weights": weights,
        "index": index.key,
        "blocks": config.all_blocks,
        "precision": config.runtime.precision,
        "shard_images": config.runtime.shard_images,
    }


def attention_proposal_basis(
    config: RunConfig, proposal: AttentionProposal, attended: StageFolder, classes: StageFolder
) -> Basis:
    """Of maps made of attention, and of ``classes``, which tells an image's labels apart."""
    return {
        "proposal": {key: value for key, value in proposal.settings.items() if key != "classes"},
        "attention": attended.name,
        "classes": classes.name,
        "shard_images": config.runtime.shard_images,
    }


def region_basis(config: RunConfig, decoder: DipsDecoder, attended: StageFolder, classifier: str) -> Basis:
    """Of scored boxes around attention; ``classifier`` is the SHA-256 of the classifier's weights."""
    return {
        "regions": decoder.regions.model_dump(mode="json", exclude={"top"}),
        "attention": attended.name,
        "classifier": classifier,
        "input": config.classifier.model_dump(mode="json", include={*_INPUT, "batch_size"}),
        "shard_images": config.runtime.shard_images,
    }


def decoder_basis(
    config: RunConfig, decoder: Decoder, index: ImageIndex, taught_by: StageFolder, classifier: str, truth: str | None
) -> Basis:
    """Of a trained decoder; ``taught_by`` are the maps or boxes it learns from, ``truth`` is what chooses the epoch."""
    weights = find_weights(decoder.weights).identity if isinstance(decoder, DipsDecoder) else None
    splits = [*decoder.split, *([decoder.select_split] if decoder.select else [])]
    return {
        "decoder": decoder.settings,
        "weights": weights,
        "taught_by": taught_by.name,
        "classifier": classifier,
        "input": config.classifier.model_dump(mode="json", include={*_INPUT}),
        "images": index.subset_key(rows_of(index, splits)),
        "truth": truth if decoder.select else None,
    }


def decoded_basis(config: RunConfig, index: ImageIndex, decoder: str, classes: StageFolder) -> Basis:
    """Of a decoder's maps; ``decoder`` is the SHA-256 of its weights."""
    return {
        "decoder": decoder,
        "probabilities": True,
        "classes": classes.name,
        "index": index.key,
        "batch_size": config.classifier.batch_size,
        "shard_images": config.runtime.shard_images,
    }


def walked_basis(
    config: RunConfig, affinity: Affinity, index: ImageIndex, weights: str, proposal: StageFolder
) -> Basis:
    """Of a proposal's maps after a walk that edges stop; ``weights`` is the SHA-256 of what finds the edges."""
    return {
        "affinity": weights,
        "walk": affinity.walk.model_dump(mode="json"),
        "proposal": proposal.name,
        "index": index.key,
        "input": config.classifier.model_dump(mode="json", include={*_INPUT, "batch_size"}),
        "shard_images": config.runtime.shard_images,
    }


def correlation_basis(config: RunConfig, step: ScgStep, proposal: StageFolder) -> Basis:
    """Of one proposal's maps after self-correlation; the proposal's key covers network, input and arithmetic."""
    return {
        "scg": step.model_dump(mode="json"),
        "proposal": proposal.name,
        "shard_images": config.runtime.shard_images,
    }


def mask_basis(
    config: RunConfig,
    index: ImageIndex,
    proposal: StageFolder,
    steps: Sequence[Step] | None = None,
    correlated: StageFolder | None = None,
) -> Basis:
    """Of the masks made from one proposal by some steps; default: all of the run's."""
    used = config.refine if steps is None else steps
    return {
        "refine": [step.model_dump(mode="json") for step in used],
        "proposal": proposal.name,
        "correlated": correlated.name if correlated and any(step.step == "scg" for step in used) else None,
        "index": index.key,
        "shard_images": config.runtime.shard_images,
    }


def segmenter_basis(
    config: RunConfig, training: Segmenter | RecurSeed, index: ImageIndex, labels: StageFolder | None, classifier: str
) -> Basis:
    """Of a network that predicts masks; ``labels`` are those it learns from, ``classifier`` the SHA-256 it may begin
    with."""
    own = training.weights is None and training.backbone in (None, config.classifier.backbone)
    return {
        "segmenter": {**training.settings, "backbone": training.backbone or config.classifier.backbone},
        "weights": find_weights(training.weights).identity,
        "classifier": classifier if own else None,
        "labels": labels.name if labels else None,
        "input": config.classifier.model_dump(mode="json", include={"input_size", "normalise"}),
        "images": index.subset_key(rows_of(index, training.split)),
    }


def prediction_basis(
    config: RunConfig, training: Segmenter | RecurSeed, index: ImageIndex, weights: str, scores: StageFolder
) -> Basis:
    """Of a network's masks; ``weights`` is the SHA-256 of its weights, ``scores`` may say which classes there are."""
    asks = isinstance(training, Segmenter) and training.inference.gate == "scores"
    return {
        "weights": weights,
        "inference": training.inference.model_dump(mode="json"),
        "scores": scores.name if asks else None,
        "index": index.key,
        "input_size": training.side(config.classifier.input_size),
        "channels_last": config.runtime.channels_last,
        "batch_size": config.classifier.batch_size,
        "shard_images": config.runtime.shard_images,
    }


def change_basis(config: RunConfig, before: StageFolder, after: StageFolder) -> Basis:
    """Of the counts of one label set against the one before it."""
    return {"before": before.name, "after": after.name, "shard_images": config.runtime.shard_images}


def evaluation_basis(config: RunConfig, truth: StageFolder, labels: StageFolder | None, *, final: bool = True) -> Basis:
    """Of the counts of one label set against the truth, or of the floor rows where there is no label set.

    Thresholds are swept once per proposal, with its ``final`` label set.
    """
    settings = config.evaluate.model_dump(mode="json", include={"centred_box"} if labels is None else {"curve"})
    return {
        "evaluate": settings if final else {"curve": False},
        "truth": truth.name,
        "labels": labels.name if labels else None,
        "shard_images": config.runtime.shard_images,
    }


def localization_basis(
    config: RunConfig,
    truth: StageFolder | None,
    boxes: StageFolder | None,
    proposal: StageFolder | None,
    labels: StageFolder | None,
) -> Basis:
    """Of the localization counts of one proposal and its last label set; without a proposal those of the floors."""
    names = {"boxes"} if proposal else {"boxes", "centred_box"}
    return {
        "evaluate": config.evaluate.model_dump(mode="json", include=names),
        "truth": truth.name if truth else None,
        "boxes": boxes.name if boxes else None,
        "proposal": proposal.name if proposal else None,
        "labels": labels.name if labels else None,
        "shard_images": config.runtime.shard_images,
    }


def report_basis(config: RunConfig, parts: dict[str, Any]) -> Basis:
    """Of a report: everything it shows, names included."""
    return {"report": config.report.model_dump(mode="json"), "parts": parts}
