"""Finding out that nothing is left to do without waking Prefect: a finished run answers as fast as it can be listed."""

from configs.recurseed import RecurSeed
from configs.segmentation import Segmenter
from flows.evaluate import evaluation_folders
from flows.stage import box_folder, list_dataset, truth_folder
from storage import keys
from storage.commits import CommitLog
from storage.models import is_saved
from storage.staged import staged_index
from storage.stages import StageFolder
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
from tasks.report import METRICS_UNIT, PAGE_UNIT, report_folder
from tasks.stage import INDEX_UNIT
from tasks.state import State


def finished(run: Run, steps: tuple[str, ...]) -> State | None:
    """The state of a run whose steps are all committed, None if anything is left.

    Parameters
    ----------
    run
        The run.
    steps
        The steps asked for, in order.
    """
    state = State(run)
    checks = {
        "stage": _staged,
        "classify": _classified,
        "attend": _attended,
        "propose": _proposed,
        "decode": _decoded,
        "refine": _refined,
        "segment": _segmented,
        "recurse": _recursed,
        "evaluate": _evaluated,
        "report": _reported,
    }
    for step in steps:
        if not checks[step](state):
            return None
        state.done[step] = 0
    return state


def _staged(state: State) -> bool:
    run = state.run
    _, _, basis = list_dataset(run)
    folder = keys.stage_folder(run.workspace, "stage", basis)
    if not folder.complete or not folder.log.path(INDEX_UNIT).exists() or not run.workspace.index_path.exists():
        return False
    if run.workspace.index_path.read_bytes() != (folder.folder / "images.parquet").read_bytes():
        return False
    state.staged, state.index = folder, staged_index(folder)
    if boxes := box_folder(state, folder):
        state.boxes = boxes[0]
    if found := truth_folder(run, folder):
        state.truth = found[0]
    return _complete([part for part in (state.boxes, state.truth) if part is not None])


def _classified(state: State) -> bool:
    return is_saved(name_classifier(state))


def _attended(state: State) -> bool:
    folder = name_transformer(state)
    return folder is None or (is_saved(folder) and name_attention(state)[0].complete)


def _proposed(state: State) -> bool:
    name_proposals(state)
    return _complete([*(folder for _, folder in state.proposals), *state.correlated.values()])


def _decoded(state: State) -> bool:
    for place in range(len(state.run.config.decoders)):
        if not is_saved(name_decoder(state, place)):
            return False
        name_decoded(state, place)
    folders = [*(folder for _, folder in state.proposals), *state.correlated.values(), *state.regions.values()]
    return _complete(folders)


def _refined(state: State) -> bool:
    name_masks(state)
    return _complete([one.folder for sets in state.label_sets for one in sets])


def _segmented(state: State) -> bool:
    return all(_predicted(state, training) for training in state.run.config.segmenters)


def _predicted(state: State, training: Segmenter | RecurSeed) -> bool:
    return is_saved(name_segmenter(state, training)) and name_predicted(state, training)[0].complete


def _recursed(state: State) -> bool:
    while (training := next_round(state)) is not None:
        if not _predicted(state, training) or not name_round_change(state, training)[0].complete:
            return False
    return True


def _evaluated(state: State) -> bool:
    evaluation_folders(state)
    counts = [
        folder
        for folders in (*state.counts, *state.changes, state.localized, state.prediction_counts)
        for folder in folders
    ]
    state.report = report_folder(state)
    done = CommitLog(state.report).path(METRICS_UNIT).exists()
    return done and _complete(counts + [floor for floor in (state.floors, state.floor_localized) if floor])


def _reported(state: State) -> bool:
    return state.report is not None and CommitLog(state.report).path(PAGE_UNIT).exists()


def _complete(folders: list[StageFolder]) -> bool:
    return all(folder.complete for folder in folders)
