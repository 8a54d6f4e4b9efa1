"""Taking over models: what an earlier run trained on the same images with the same settings is not trained again.

A model that learns from stored maps or masks is named after their stage, whose key covers every image of the data set,
also those that it does not learn from. So it writes down what its training depends on apart from other images (as
:mod:`storage.adopt` does for shards: the kin of the stages it names, and its own images with their ground truth), and a
training that depends on the same takes its files instead.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.adopt import TRUTH, kin_key
from storage.commits import CommitError, CommitLog
from storage.files import file_digest, seal, short_key, unseal, write_bytes_atomic
from storage.models import UNIT, is_saved
from storage.writing import link_file

KIN = "kin.json"


def model_kin(
    stages: Path, folder: Path, basis: Mapping[str, Any], classes: Iterable[str], sources: pa.Table, rows: Sequence[int]
) -> str:
    """What a training depends on apart from images it does not look at.

    Parameters
    ----------
    stages
        Folder of all stages of the workspace.
    folder
        Of the model.
    basis
        What its key was made from; the images it learns from are in it by their content.
    classes
        Names of the classes.
    sources
        What staging knows of every row of the index.
    rows
        Rows it learns from, or is chosen by.
    """
    truth = sources.select(list(TRUTH)).take(pa.array(rows, pa.int64())).to_pylist()
    return short_key({"model": kin_key(stages, folder.name, basis, classes), "truth": truth})


def adopt_model(folder: Path, kin: str) -> bool:
    """Take over the model of a folder from one of the same kin; where there is none, write the kin down for later.

    Returns
    -------
    bool
        Whether the model is there now, committed.
    """
    name = folder.name.rpartition("-")[0]
    for path in sorted(folder.parent.glob(f"{name}-*/{KIN}")):
        other = path.parent
        if other != folder and _kin_of(path) == kin and is_saved(other) and _take(other, folder):
            write_bytes_atomic(folder / KIN, seal({"kin": kin}))
            return True
    write_bytes_atomic(folder / KIN, seal({"kin": kin}))
    return False


def _kin_of(path: Path) -> str | None:
    try:
        return str(unseal(path.read_bytes())["kin"])
    except (OSError, ValueError, KeyError):
        return None


def _take(old: Path, new: Path) -> bool:
    began = time.monotonic()
    try:
        record = CommitLog(old).read(UNIT)
        if any(file_digest(old / name) != claimed for name, claimed in record.objects.items()):
            return False
        objects = [link_file(old / name, new / name) for name in record.objects]
    except (CommitError, OSError):
        return False
    facts = {"adopted": {"folder": old.name, "seconds": record.seconds, "host": record.host}, **record.facts}
    CommitLog(new).commit(UNIT, objects, facts=facts, began=began, device=record.device)
    return True
