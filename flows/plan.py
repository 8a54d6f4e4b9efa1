"""Plan: what a run would do, found out by listing the data set and looking at commit records; nothing is written."""

from pathlib import Path

from configs import ConfigError, RunConfig, load_config
from configs.decoders import DipsDecoder
from configs.recurseed import RecurSeed
from configs.segmentation import Segmenter
from flows.cli import FAILED, FINISHED, REFUSED
from flows.stage import box_folder, truth_folder
from storage import keys
from storage.adopt import known_shards
from storage.models import is_saved
from storage.readers import read_dataset
from storage.samples import StagingError
from storage.staged import STAGE_SHARD, listing_digest, staged_index, stamp_all, thin
from storage.stages import StageFolder
from storage.weights import WeightsError
from storage.workspace import Workspace
from tasks.context import Run
from tasks.folders import (
    name_attention,
    name_classifier,
    name_decoded,
    name_decoder,
    name_masks,
    name_predicted,
    name_proposals,
    name_round_change,
    name_segmenter,
    name_transformer,
)
from tasks.recursion import next_round
from tasks.stage import INDEX_UNIT
from tasks.state import State


def plan_command(config: str, workspace: Path | None, limit: int | None, overrides: list[str]) -> int:
    """Print the plan of a run."""
    from flows.commands import default_workspace, say

    try:
        checked = load_config(config, overrides)
        lines = plan(checked, Workspace(workspace or default_workspace(config)), limit)
    except (ConfigError, WeightsError) as error:
        say(f"refused: {error}")
        return REFUSED
    except StagingError as error:
        say(f"failed while listing: {error}")
        return FAILED
    print("\n".join(lines))
    return FINISHED


def plan(config: RunConfig, workspace: Workspace, limit: int | None) -> list[str]:
    """Lines that say, step by step, how much is done and how much is to do."""
    listing = thin(read_dataset(config.dataset), limit)
    stamps = stamp_all(config.dataset.root, listing)
    sizes = [max(0, image[0]) for image, _ in stamps]
    lines = [
        f"workspace  {workspace.root}",
        f"images     {len(listing.samples)} in {', '.join(sorted({one.split for one in listing.samples}))}; "
        f"{sum(sizes) / 1e6:.1f} MB on disk, {sum(size == 0 for size in sizes)} missing or empty",
        f"classes    {', '.join(listing.classes)}",
    ]
    basis = keys.listing_basis(config, listing_digest(listing, stamps))
    staged = keys.stage_folder(workspace, "stage", basis)
    lines.append(_line("stage", staged, -(-len(listing.samples) // STAGE_SHARD), f"shards of {STAGE_SHARD} images"))
    if not (staged.folder / "images.parquet").exists():
        return [*lines, "the rest depends on what staging finds: run `maskmill stage` and plan again"]
    state = State(Run(config, workspace, limit))
    state.staged, state.index = staged, staged_index(staged)
    if not _find_truth(state, staged):
        return [*lines, "the rest depends on the ground truth: run `maskmill stage` and plan again"]
    return lines + _later(state)


def _find_truth(state: State, staged: StageFolder) -> bool:
    """Name ground truth and boxes: what chooses the epoch of a decoder is a part of its key."""
    if not staged.log.path(INDEX_UNIT).exists():
        return False
    state.truth = found[0] if (found := truth_folder(state.run, staged)) else None
    state.boxes = boxes[0] if (boxes := box_folder(state, staged)) else None
    return True


def _later(state: State) -> list[str]:
    """What comes after staging, as far as it can be told: keys follow from weights that training has yet to make."""
    index, shards = state.index, state.shards
    pairs = sum(len(ids) for row, ids in enumerate(index.class_ids) if index.ok[row])
    canvas = sum(height * width * count for (height, width), count in index.canvases.items())
    lines = [
        f"index      {len(index)} rows, {int((~index.ok).sum())} quarantined, {pairs} (image, class) pairs, "
        f"{len(index.canvases)} canvas sizes; a label set takes up to {2 * canvas / 1e6:.0f} MB before compression",
    ]
    stages, size = state.run.workspace.root / "stages", state.run.config.runtime.shard_images
    if taken := known_shards(stages, state.index_stage, size):
        lines.append(f"known      {taken} of {shards} shards, from earlier runs: what was made of them is taken over")
    model = name_classifier(state)
    lines.append(_model_line("classify", model, f"proposals and masks depend on its weights: {shards} shards each"))
    if not is_saved(model):
        return lines
    lines += _attention_lines(state)
    name_proposals(state)
    known = list(state.proposals)
    for place, decoder in enumerate(state.run.config.decoders):
        if isinstance(decoder, DipsDecoder) and state.attended is None:
            lines.append(f"decode     to do ({decoder.title}, after the transformer's attention)")
            continue
        model = name_decoder(state, place)
        if isinstance(decoder, DipsDecoder):
            lines.append(_line("decode", state.regions[decoder.title], shards, f"{decoder.title}, boxes"))
        rest = f"{decoder.title}, maps and masks depend on it: {shards} shards each"
        lines.append(_model_line("decode", model, rest))
        if is_saved(model):
            name_decoded(state, place)
    for one, folder in state.proposals:
        step = "propose" if (one, folder) in known else "decode"
        lines.append(_line(step, folder, shards, one.title))
        if correlated := state.correlated.get(one.title):
            lines.append(_line(step, correlated, shards, f"{one.title}, self-correlated"))
    name_masks(state)
    for (one, _), sets in zip(state.proposals, state.label_sets, strict=True):
        for part in sets:
            title = one.title if part.stage == "mask" else f"{one.title}, {part.stage}"
            lines.append(_line("refine", part.folder, shards, title))
    return lines + _prediction_lines(state)


def _prediction_lines(state: State) -> list[str]:
    """Networks that predict masks, and rounds as far as they are known: what follows depends on their weights."""
    lines: list[str] = []
    open_: set[str] = set()
    for training in state.run.config.segmenters:
        if isinstance(training, Segmenter) and training.labels in open_:
            lines.append(f"segment    {training.title}, learns what {training.labels} will predict")
            open_.add(training.title)
            continue
        found, _ = _training_lines(state, "segment", training)
        lines += found
        if not is_saved(name_segmenter(state, training)):
            open_.add(training.title)
    recurse = state.run.config.recurse
    if recurse is not None and recurse.train.labels in open_:
        return [
            *lines,
            f"recurse    up to {recurse.rounds} rounds, the first learns what {recurse.train.labels} will predict",
        ]
    while (round_ := next_round(state)) is not None and recurse is not None:
        found, saved = _training_lines(state, "recurse", round_)
        lines += found
        change = name_round_change(state, round_)[0] if saved else None
        if change is None or not change.complete:
            left = recurse.rounds - len(state.round_changes) - (0 if saved else 1)
            more = f"recurse    up to {left} more rounds, unless one changes at most {recurse.stop:g} of the pixels"
            return [*lines, more] if left > 0 else lines
    return lines


def _training_lines(state: State, step: str, training: Segmenter | RecurSeed) -> tuple[list[str], bool]:
    model = name_segmenter(state, training)
    lines = [_model_line(step, model, f"{training.title}, its masks depend on it: {state.shards} shards")]
    if not is_saved(model):
        return lines, False
    folder = name_predicted(state, training)[0]
    return [*lines, _line(step, folder, state.shards, training.title)], folder.complete


def _attention_lines(state: State) -> list[str]:
    model = name_transformer(state)
    if model is None:
        return []
    lines = [_model_line("attend", model, f"attention depends on its weights: {state.shards} shards")]
    if is_saved(model):
        lines.append(_line("attend", name_attention(state)[0], state.shards, "attention"))
    return lines


def _model_line(step: str, folder: Path, rest: str) -> str:
    if is_saved(folder):
        return f"{step:<10} cached ({folder.name})"
    state = "to resume" if (folder / "checkpoint.pt").exists() else "to do"
    return f"{step:<10} {state} ({folder.name}); {rest}"


def _line(step: str, folder: StageFolder, shards: int, what: str) -> str:
    missing = len(folder.missing()) if folder.exists else shards
    return f"{step:<10} {missing} to do, {shards - missing} cached ({folder.name}, {what})"
