"""Writing: files that are either whole or absent, and the sweep of what a kill left behind.

Every file of a workspace is written to a dot-prefixed temporary beside it, flushed to the disk and renamed, so that a
reader sees the old file or the new one and never a part. In an object store (:mod:`storage.places`) one PUT does all of
that; there are no folders to make and no temporaries to sweep.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.faults import failing_step
from storage.places import file_system, is_local, read_whole

TEMPORARY = ".tmp"
_STRAYS = (".*" + TEMPORARY, "*.partial")
_MEANING = {
    errno.ENOSPC: "no space left there; free some, then run again",
    errno.EDQUOT: "the quota there is used up; free some space, then run again",
    errno.EFBIG: "files may not be that large there",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "writing is not allowed there",
    errno.EPERM: "writing is not allowed there",
    errno.EIO: "the disk or store reports an error; `maskmill verify` tells what can still be read",
}
_guards: dict[Path, Callable[[], object]] = {}


class WriteError(OSError):
    """Something could not be written; the message says where and why. What was there before stays as it was."""

    def __str__(self) -> str:
        return str(self.strerror)


def write_error(path: Path, error: OSError) -> WriteError:
    """The error for a place that could not be written."""
    number = error.errno or (errno.EACCES if isinstance(error, PermissionError) else 0)
    meaning = _MEANING.get(number, "it could not be written")
    return WriteError(number, f"{path}: {meaning} ({error.strerror or error})")


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a whole file: temporary, bytes, fsync, rename, fsync of the folder; or one PUT.

    Raises
    ------
    WriteError
        The disk is full or read-only; the temporary is removed and an earlier file stays as it was (where only the
        last step failed, the new one may be there, whole).
    """
    _ask_guards(path)
    try:
        if is_local(path):
            _replace_file(path, data)
        else:
            _put(path, data)
    except OSError as error:
        raise write_error(path, error) from error


def _put(path: Path, data: bytes) -> None:
    failing_step("PUT")
    fs, name = file_system(path)
    with told_as_os_error():
        fs.pipe_file(name, data)


@contextmanager
def told_as_os_error() -> Iterator[None]:
    """Inside, whatever a client of a store raises (no credentials, no answer) is an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EREMOTEIO, f"{type(error).__name__}: {error}") from error


def _replace_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:64]}.{uuid.uuid4().hex[:12]}{TEMPORARY}"
    try:
        failing_step("create")
        with temporary.open("wb") as file:
            failing_step("write")
            file.write(data)
            file.flush()
            failing_step("fsync")
            os.fsync(file.fileno())
        failing_step("rename")
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    failing_step("fsync of the folder")
    sync_folder(path.parent)


@contextmanager
def guarded(root: Path, check: Callable[[], object]) -> Iterator[None]:
    """Inside, this process writes or removes nothing below ``root`` before ``check`` has returned.

    Raises
    ------
    RuntimeError
        Another block guards the same place.
    """
    if _guards.setdefault(root, check) is not check:
        raise RuntimeError(f"{root} is guarded already")
    try:
        yield
    finally:
        del _guards[root]


def _ask_guards(path: Path) -> None:
    for root, check in list(_guards.items()):
        if type(root) is type(path) and path.is_relative_to(root):
            check()


def remove_file(path: Path) -> None:
    """Remove a file for good; nothing where there is none."""
    _ask_guards(path)
    try:
        failing_step("remove")
        path.unlink(missing_ok=True)
        if is_local(path) and path.parent.is_dir():
            sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def remove_tree(folder: Path) -> None:
    """Remove all below a folder, commit records first: what is left of it must not pass for something whole."""
    _ask_guards(folder)
    if is_local(folder):
        shutil.rmtree(folder)
        return
    fs, name = file_system(folder)
    found = sorted(fs.find(name), key=lambda one: "/commits/" not in one)
    for one in found:
        fs.rm_file(one)


def link_file(path: Path, target: Path) -> Path:
    """Give a file a second name, which replaces what was there; a copy where the file system cannot."""
    _ask_guards(target)
    if not is_local(path):
        write_bytes_atomic(target, read_whole(path))
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name[:64]}.{uuid.uuid4().hex[:12]}{TEMPORARY}"
    try:
        os.link(path, temporary)
    except OSError:
        write_bytes_atomic(target, read_whole(path))
        return target
    # Two names of one file: the rename would leave both.
    target.unlink(missing_ok=True)
    temporary.replace(target)
    sync_folder(target.parent)
    return target


def file_names(folder: Path) -> list[str]:
    """Names of what lies in a folder, in order and without temporaries; none where there is no folder."""
    try:
        if is_local(folder):
            names = [one.name for one in folder.iterdir()]
        else:
            fs, name = file_system(folder)
            names = [one.rstrip("/").rpartition("/")[2] for one in fs.ls(name, detail=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if not name.startswith("."))


def modified_ns(path: Path) -> int:
    """When a file was written, in nanoseconds of the clock of the disk or store."""
    if is_local(path):
        return path.stat().st_mtime_ns
    fs, name = file_system(path)
    return int(fs.modified(name).timestamp() * 1e9)


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote, and the folder that names it, to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_strays(root: Path) -> list[Path]:
    """Remove temporaries that killed writers left below ``root``; only the holder of the workspace may call this."""
    if not is_local(root):
        return []
    strays = [path for pattern in _STRAYS for path in root.rglob(pattern) if path.is_file()]
    for path in strays:
        path.unlink()
    return strays
