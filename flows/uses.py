"""Which folders of its workspace a run used."""

from pathlib import Path
from typing import Any

from storage import keys
from storage.places import is_place
from storage.stages import StageFolder
from tasks.state import LabelSet, State


def used_folders(state: State) -> set[Path]:
    """Folders of stages, models and reports that a run read or wrote: whatever its state knows of."""
    root = state.run.workspace.root
    found = {path for value in vars(state).values() for path in _paths(value)}
    if state.run.config.classifier.frozen and state.run.config.classifier.trained is None:
        rows = keys.training_rows(state.run.config, state.index)
        basis = keys.feature_basis(state.run.config, state.index, rows)
        found.add(keys.stage_folder(state.run.workspace, "features", basis).folder)
    return {path for path in found if path.is_relative_to(root) and path.is_dir()}


def _paths(value: Any) -> set[Path]:
    match value:
        case StageFolder():
            return {value.folder}
        case LabelSet():
            return {value.folder.folder}
        case _ if is_place(value):
            return {value}
        case dict():
            return {path for one in value.values() for path in _paths(one)}
        case list() | tuple():
            return {path for one in value for path in _paths(one)}
        case _:
            return set()
