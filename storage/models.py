"""Finished models of a workspace: weights, a description beside them, and a commit record over both."""

import json
from pathlib import Path
from typing import Any

from storage.commits import CommitLog
from storage.places import read_whole

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
HISTORY = "history.parquet"
UNIT = "model"


def is_saved(folder: Path) -> bool:
    """Whether a classifier is there, whole."""
    return CommitLog(folder).path(UNIT).exists()


def describe(folder: Path) -> dict[str, Any]:
    """What was written beside the weights."""
    value = json.loads(read_whole(folder / DESCRIPTION))
    return dict(value)


def weights_digest(folder: Path) -> str:
    """SHA-256 of a finished classifier's weights, from its commit record."""
    return CommitLog(folder).read(UNIT).objects[WEIGHTS]
