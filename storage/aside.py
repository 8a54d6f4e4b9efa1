"""Images that a stage had to leave out because looking at them kills the process, kept in the stage's folder.

A shard that is done again has to leave out the same images, or its bytes would be others. So they are written down
first, one sealed file a shard, with a commit record like any other object.
"""

import time
from collections.abc import Mapping

from storage.files import seal, unseal, write_bytes_atomic
from storage.places import read_whole
from storage.stages import StageError, StageFolder, unit_name

ASIDE = "aside"


def read_aside(folder: StageFolder, shard: int) -> dict[int, str]:
    """Rows of a shard that the stage leaves out, with the reasons.

    Raises
    ------
    StageError
        The file is not what was written.
    """
    path = folder.folder / ASIDE / f"{unit_name(shard)}.json"
    if not path.exists() or not folder.log.path(_unit(shard)).exists():
        return {}
    try:
        return {int(row): str(reason) for row, reason in unseal(read_whole(path))["rows"].items()}
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path}: expected the images that were left out, saw {error}; run `maskmill verify --repair`"
        ) from error


def all_aside(folder: StageFolder) -> dict[int, str]:
    """The same for all shards of a stage."""
    shards = sorted((folder.folder / ASIDE).glob("[!.]*.json"))
    return {row: reason for path in shards for row, reason in read_aside(folder, int(path.stem)).items()}


def set_aside(folder: StageFolder, shard: int, rows: Mapping[int, str]) -> None:
    """Leave out rows of a shard from now on, beside those that it leaves out already."""
    began = time.monotonic()
    known = read_aside(folder, shard) | dict(rows)
    path = folder.folder / ASIDE / f"{unit_name(shard)}.json"
    folder.log.withdraw(_unit(shard))
    write_bytes_atomic(path, seal({"rows": {str(row): known[row] for row in sorted(known)}}))
    folder.log.commit(_unit(shard), [path], facts={}, began=began)


def _unit(shard: int) -> str:
    return f"{ASIDE}-{unit_name(shard)}"
