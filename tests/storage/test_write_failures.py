"""Disks that are full, broken or read-only: the n-th step of writing fails, for all n, and nothing half is believed."""

import errno
import itertools
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from storage.arrays import ArraySpec, create_array, read_rows, write_shard
from storage.checkpoints import load_checkpoint, save_checkpoint
from storage.commits import CommitLog
from storage.faults import WRITE_VARIABLE, forget_steps
from storage.files import read_table, write_bytes_atomic, write_table
from storage.places import place, read_whole
from storage.stages import StageFolder
from storage.verify import verify_workspace
from storage.weights import load_state, save_state
from storage.workspace import Workspace
from storage.writing import WriteError, remove_file, write_error

PROJECT = Path(__file__).resolve().parents[2]
ERRORS = ["ENOSPC", "EIO", "EACCES", "EROFS"]
STEPS = 30
FILES = 6
"""Five steps each: the 30th is the last step of the last file."""
SPEC = ArraySpec(name="label", rows=3 * FILES, item=(4, 5), shard_rows=3, dtype="uint8", fill=255)

Action = Callable[[Path, int, int], None]
"""Write file number ``n`` of a folder in version ``v``."""


def write_plain(folder: Path, number: int, version: int) -> None:
    write_bytes_atomic(folder / f"{number}.bin", bytes([version]) * 1000)


def write_rows(folder: Path, number: int, version: int) -> None:
    write_table(folder / f"{number}.parquet", pa.table({"value": [version] * 10}))


def write_array(folder: Path, number: int, version: int) -> None:
    write_shard(folder, SPEC, number, np.full((3, 4, 5), version, np.uint8))


def write_record(folder: Path, number: int, version: int) -> None:
    CommitLog(folder).commit(str(number), [], facts={"version": version}, began=0.0)


def write_training(folder: Path, number: int, version: int) -> None:
    save_checkpoint(folder / f"{number}.pt", {"epoch": version})


def write_network(folder: Path, number: int, version: int) -> None:
    save_state(folder / f"{number}.safetensors", {"weight": torch.full((3,), float(version))})


def read_plain(folder: Path, number: int) -> int | None:
    path = folder / f"{number}.bin"
    data = read_whole(path) if path.exists() else None
    assert data is None or data == bytes([data[0]]) * 1000
    return data and data[0]  # type: ignore[return-value]


def read_rows_of(folder: Path, number: int) -> int | None:
    path = folder / f"{number}.parquet"
    if not path.exists():
        return None
    (version,) = {*read_table(path).column("value").to_pylist()}
    return int(version)


def read_array(folder: Path, number: int) -> int | None:
    (version,) = np.unique(read_rows(folder, SPEC, 3 * number, 3 * number + 3))
    return None if version == SPEC.fill else int(version)


def read_record(folder: Path, number: int) -> int | None:
    log = CommitLog(folder)
    return int(log.read(str(number)).facts["version"]) if str(number) in log.units() else None


def read_training(folder: Path, number: int) -> int | None:
    found = load_checkpoint(folder / f"{number}.pt")
    return None if found is None else int(found["epoch"])


def read_network(folder: Path, number: int) -> int | None:
    path = folder / f"{number}.safetensors"
    return int(load_state(path)["weight"][0].item()) if path.exists() else None


KINDS: dict[str, tuple[Action, Callable[[Path, int], int | None]]] = {
    "bytes": (write_plain, read_plain),
    "table": (write_rows, read_rows_of),
    "array": (write_array, read_array),
    "commit": (write_record, read_record),
    "checkpoint": (write_training, read_training),
    "weights": (write_network, read_network),
}


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WRITE_VARIABLE, raising=False)
    forget_steps()
    # Nothing here loses power, and thousands of files are flushed.
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path if request.param == "disk" else place(f"memory://tests/{uuid.uuid4().hex}")


def failing(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    forget_steps()
    monkeypatch.setenv(WRITE_VARIABLE, wish)


def healed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WRITE_VARIABLE)


def failure_of(action: Callable[[], object]) -> WriteError | None:
    try:
        action()
    except WriteError as error:
        return error
    return None


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


class TestEveryKind:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_nth_step_fails(self, root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        write, read = KINDS[kind]
        # A file takes five steps: every error comes at every one of them.
        for step, error in zip(range(1, STEPS + 1), itertools.cycle(ERRORS)):
            folder = root / str(step)
            if kind == "array":
                create_array(folder, SPEC)
            # Half of the files are there already, in an older version.
            for number in range(0, FILES, 2):
                write(folder, number, 1)
            failing(monkeypatch, f"{error}:{step}")
            written = self._until_it_fails(folder, write, error)
            assert temporaries(folder) == []
            healed(monkeypatch)
            for number in range(FILES):
                old = 1 if number % 2 == 0 else None
                # Of the one that failed either version is there, whole; what was written stays, the rest is untouched.
                possible = [2] if number < written else [old, 2] if number == written else [old]
                assert read(folder, number) in possible, f"step {step}, file {number}"
            for number in range(FILES):
                write(folder, number, 2)
            assert [read(folder, number) for number in range(FILES)] == [2] * FILES

    def _until_it_fails(self, folder: Path, write: Action, error: str) -> int:
        for number in range(FILES):
            failure = failure_of(lambda: write(folder, number, 2))  # noqa: B023
            if failure is not None:
                assert failure.errno == getattr(errno, error)
                assert str(folder) in str(failure)
                return number
        return FILES


class TestStage:
    def test_until_it_passes(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = self._written(Workspace(root / "expected"))
        step, failures = 0, 0
        while failures == step:
            step += 1
            workspace = Workspace(root / str(step))
            failing(monkeypatch, f"ENOSPC:{step}")
            failure = failure_of(lambda: self._written(workspace))  # noqa: B023
            if failure is not None:
                failures += 1
                assert "no space left there" in str(failure)
            healed(monkeypatch)
            assert verify_workspace(workspace)[1] == []
            stage = self._stage(workspace)
            for shard in range(2) if stage.exists else ():
                if shard not in stage.missing():
                    assert (stage.rows("label", shard, 3 * shard, 3 * shard + 3) == shard).all()
            assert self._written(workspace) == expected, f"after step {step} failed"
        assert failures >= (35 if root.is_dir() and isinstance(root, Path) else 7)

    def _stage(self, workspace: Workspace) -> StageFolder:
        return workspace.stage("mask", "c" * 12)

    def _written(self, workspace: Workspace) -> dict[str, bytes]:
        """Do what is missing of a stage; all its objects but the records, which tell the time."""
        stage = self._stage(workspace)
        spec = ArraySpec(name="label", rows=6, item=(4, 5), shard_rows=3, dtype="uint8", fill=255)
        stage.begin({"of": "tests"}, shards=2, classes=["cat"], arrays=[spec])
        for shard in stage.missing():
            items = np.full((3, 4, 5), shard, np.uint8)
            stage.write(shard, arrays={"label": (shard, items)}, tables={"facts": pa.table({"row": [shard]})})
        paths = [path for path in stage.folder.rglob("*") if path.is_file() and path.parent.name != "commits"]
        return {str(path.relative_to(stage.folder)): read_whole(path) for path in paths}


class TestWorkspace:
    def test_a_store_that_cannot_be_written_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        workspace = Workspace(tmp_path / "ws")
        for step, told in ((1, "ws: "), (2, "ws/lock: ")):
            failing(monkeypatch, f"EROFS:{step}")
            with pytest.raises(WriteError, match=rf"{told}the file system is read-only"), workspace.hold():
                pass
        healed(monkeypatch)
        with workspace.hold():
            assert workspace.owner()

    def test_a_file_in_the_way_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(WriteError, match="file/ws: it could not be written"),
            Workspace(tmp_path / "file/ws").hold(),
        ):
            pass

    def test_what_failed_first_is_told(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        workspace = Workspace(root / "ws")
        with workspace.hold():
            failing(monkeypatch, "ENOSPC:1")
            workspace.write_failure("mask, shard 3", ValueError("the disk is full"))
            healed(monkeypatch)
        assert workspace.read_failure() is None

    def test_reading_goes_on(
        self, root: Path, fill: Callable[[Workspace], Workspace], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workspace = fill(Workspace(root / "ws"))
        failing(monkeypatch, "EROFS:1")
        assert verify_workspace(workspace)[1] == []
        assert workspace.owner() is None
        with pytest.raises(WriteError, match="read-only"):
            remove_file(workspace.index_path)
        assert workspace.index_path.exists()


class TestWriteError:
    def test_smoke(self) -> None:
        error = write_error(Path("a/b"), OSError(errno.ENOSPC, "No space left on device"))
        assert str(error) == "a/b: no space left there; free some, then run again (No space left on device)"
        assert isinstance(error, OSError)

    def test_comes_back_from_another_process(self) -> None:
        error = write_error(Path("a/b"), PermissionError("Access Denied"))
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), back.errno) == (WriteError, str(error), errno.EACCES)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are POSIX's")
    def test_a_file_that_grows_too_large_for_real(self, tmp_path: Path) -> None:
        code = (
            "import resource, sys; from pathlib import Path; from storage.writing import write_bytes_atomic\n"
            "path = Path(sys.argv[1]); write_bytes_atomic(path, b'old')\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
            "try:\n    write_bytes_atomic(path, bytes(5000))\nexcept OSError as error:\n    print(error)\n"
        )
        path = tmp_path / "file"
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True)
        assert f"{path}: files may not be that large there" in done.stdout, done.stderr
        assert path.read_bytes() == b"old"
        assert temporaries(tmp_path) == []
