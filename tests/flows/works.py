"""Works on plain numbers, for tests of who does them: a worker process imports them from here."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from storage.files import TEMPORARY
from storage.stages import FACTS, StageFolder
from storage.workspace import Workspace
from tasks.context import FolderWork

SIZE = 4


def new_folder(root: Path, shards: int) -> StageFolder:
    """A stage without arrays."""
    folder = Workspace(root).stage("count", "0" * 12)
    folder.begin({}, shards=shards)
    return folder


class CountWork(FolderWork):
    """Writes the rows of a shard, four to each; some rows kill the process in the middle of a file, some shards fail.

    Parameters
    ----------
    folder
        Where to.
    deadly
        Rows that kill whoever counts them.
    together
        A number of rows that kills when they are counted at once.
    wrong
        Shards that raise a ValueError.
    absent
        Shards that find no file the first time.
    seconds
        How long a shard takes.
    """

    title = "count"

    def __init__(
        self,
        folder: StageFolder,
        *,
        deadly: Sequence[int] = (),
        together: int | None = None,
        wrong: Sequence[int] = (),
        absent: Sequence[int] = (),
        seconds: float = 0.0,
    ) -> None:
        self.folder, self.deadly, self.together, self.wrong = folder, deadly, together, wrong
        self.absent, self.seconds = absent, seconds

    def images(self, shard: int) -> list[int]:
        """Rows of a shard."""
        return list(range(shard * SIZE, (shard + 1) * SIZE))

    def __call__(self, shard: int) -> None:
        """Count one shard."""
        left_out = self.left_out(shard)
        rows = [row for row in self.images(shard) if row not in left_out]
        time.sleep(self.seconds)
        if {*rows} & {*self.deadly} or len(rows) == self.together:
            (self.folder.folder / f".facts-{shard}{TEMPORARY}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if shard in self.wrong:
            raise ValueError(f"shard {shard} is wrong")
        tried = self.folder.folder / f"tried-{shard}"
        if shard in self.absent and not tried.exists():
            tried.touch()
            raise OSError(f"shard {shard} is absent")
        table = pa.table({"row": pa.array(rows, pa.int64())})
        self.folder.write(shard, tables={FACTS: table}, facts={"pid": os.getpid()})

    @property
    def counters(self) -> set[int]:
        """Processes that did the shards which are done."""
        log = self.folder.log
        return {log.read(unit).facts["pid"] for unit in log.units() if unit.isdigit()}

    @property
    def counted(self) -> list[int]:
        """Rows of all shards that are done."""
        return [
            row
            for shard in range(self.folder.shards)
            if shard not in self.folder.missing()
            for row in self.folder.shard_table(shard).column("row").to_pylist()
        ]
