"""The workspace: one folder that holds everything a run makes, and the lock that keeps runs apart.

It lies on this machine or in an object store; the lock is the kernel's there and a lease here (:mod:`storage.lease`).
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from storage.checkpoints import sweep_checkpoints
from storage.faults import failing_step
from storage.files import seal, sweep_strays, unseal, write_bytes_atomic
from storage.lease import Lease, LeaseHeldError, LeaseLostError
from storage.places import is_local, place, read_whole
from storage.stages import StageFolder
from storage.writing import WriteError, remove_file, write_error


class WorkspaceHeldError(RuntimeError):
    """Another run holds the workspace; the message names its owner."""


class WorkspaceError(RuntimeError):
    """A folder that is no workspace."""


class Workspace:
    """Paths of a workspace; creating the object touches nothing.

    Parameters
    ----------
    root
        The folder, or the URL of a prefix in an object store such as ``s3://bucket/run``.

    Raises
    ------
    PlaceError
        A URL that cannot be used.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = place(root)

    @property
    def index_path(self) -> Path:
        """The image index of the last run."""
        return self.root / "images.parquet"

    def stage(self, stage: str, key: str) -> StageFolder:
        """Folder of a stage under a key."""
        return StageFolder(self.root / "stages" / f"{stage}-{key}")

    def stages(self) -> list[StageFolder]:
        """Every stage folder that has a manifest, by name."""
        return [StageFolder(path.parent) for path in sorted((self.root / "stages").glob("*/manifest.json"))]

    def model(self, name: str, key: str) -> Path:
        """Folder of a model under a key."""
        return self.root / "models" / f"{name}-{key}"

    def report(self, key: str) -> Path:
        """Folder of a report under a key."""
        return self.root / "reports" / key

    def write_run(self, run: dict[str, Any]) -> None:
        """Record the last run: configuration, versions, host, keys of its stages."""
        write_bytes_atomic(self.root / "run.json", seal({**run, "host": platform.node()}))

    def read_run(self) -> dict[str, Any]:
        """The last run's record.

        Raises
        ------
        WorkspaceError
            Nothing has run here.
        """
        path = self.root / "run.json"
        try:
            return unseal(read_whole(path))
        except (OSError, ValueError) as error:
            raise WorkspaceError(f"{path}: expected the record of a run, saw {error}; is this a workspace?") from error

    def write_failure(self, unit: str, error: BaseException) -> None:
        """Record what ended a run, and the unit of work that it ended with; the next run removes it."""
        told = {"time": time.strftime("%FT%T%z"), "unit": unit, "error": type(error).__name__, "message": str(error)}
        # Where the store itself fails, or belongs to another run now, the error that it is about has to be told.
        with suppress(WriteError, LeaseLostError):
            write_bytes_atomic(self.root / "failure.json", seal(told))

    def read_failure(self) -> dict[str, Any] | None:
        """What ended the last run, None where it ended well or was killed."""
        try:
            return unseal(read_whole(self.root / "failure.json"))
        except (OSError, ValueError):
            return None

    def forget_failure(self) -> None:
        """Remove that record."""
        path = self.root / "failure.json"
        if path.exists():
            remove_file(path)

    def owner(self) -> str | None:
        """Who holds the workspace now, None if nobody does; asking takes nothing."""
        path = self.root / "lock"
        if not is_local(path):
            return Lease(path).owner()
        if not path.exists():
            return None
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return _owner(path)
        except OSError:
            # A lock that may not be opened cannot be asked. Its holder empties it in the end, unless it was killed.
            return f"{_owner(path)}, if that still runs" if read_whole(path) else None
        lock.release()
        return None

    @contextmanager
    def hold(self) -> Iterator[list[Path]]:
        """Hold the workspace: nobody else may write until the block ends, however it ends.

        Yields
        ------
        list of Path
            What killed writers left and was swept: temporaries, checkpoints of models that are whole.

        Raises
        ------
        WorkspaceHeldError
            Another process holds it; in an object store also from a write inside, when another one took it over.
        WriteError
            It cannot be written.
        """
        if is_local(self.root):
            with self._locked():
                yield sweep_strays(self.root) + sweep_checkpoints(self.root / "models")
            return
        try:
            with Lease(self.root / "lock").hold():
                yield sweep_checkpoints(self.root / "models")
        except LeaseLostError as error:
            raise WorkspaceHeldError(
                f"{self.root} was taken over by {error.owner}; this run stops, what it committed stays"
            ) from error
        except LeaseHeldError as error:
            raise WorkspaceHeldError(f"{self.root} is held by {error.owner}; wait for it or stop it") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.root / "lock"
        # Not at once: somebody who only asks for the owner has it for an instant.
        lock = FileLock(path, timeout=0.5)
        try:
            failing_step("lock")
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise WorkspaceHeldError(f"{self.root} is held by {_owner(path)}; wait for it or stop it") from None
        except OSError as error:
            raise write_error(self.root, error) from error
        try:
            # In place, not by rename: the kernel's lock belongs to this very file.
            _write_owner(
                path, json.dumps({"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%FT%T%z")})
            )
            yield
            _write_owner(path, "")
        finally:
            lock.release()


def _write_owner(path: Path, text: str) -> None:
    try:
        failing_step("owner")
        path.write_text(text)
    except OSError as error:
        raise write_error(path, error) from error


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"pid {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an owner that has not written its name yet"
