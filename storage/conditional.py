"""Objects that are written only if nobody else wrote them first: create, and compare and swap.

S3 does both with one PUT: ``If-None-Match: *`` creates, ``If-Match: <ETag>`` replaces what was seen. Of two writers one
gets through, and the store decides which. The same is done in ``memory://``, for tests within one process.
"""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from storage.files import digest
from storage.places import PlaceError, file_system
from storage.writing import told_as_os_error

_guard = threading.Lock()
_RESOLUTION = 1.0
"""Seconds by which two time stamps of S3 may disagree: it gives whole ones."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it was: its content, its tag, and how many seconds ago it was written, at least.

    The age is counted by the store's clock alone, so that no other machine's has to be right.
    """

    data: bytes
    tag: str
    age: float


def look(path: Path) -> Seen | None:
    """The object at a place, None where there is none.

    Its tag may belong to an older content than the one returned, never to a later one: a swap with it is refused then.
    """
    fs, name = file_system(path)
    try:
        if _kind(path) == "memory":
            data = fs.cat_file(name)
            return Seen(data, digest(data), (datetime.now(UTC) - fs.modified(name)).total_seconds())
        with told_as_os_error():
            head = _call(fs, "head_object", name)
            now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
            age = (now - head["LastModified"]).total_seconds() - _RESOLUTION
            return Seen(fs.cat_file(name), head["ETag"], age)
    except FileNotFoundError:
        return None


def create(path: Path, data: bytes) -> str | None:
    """Write an object where there is none; its tag, or None where there is one already."""
    fs, name = file_system(path)
    if _kind(path) == "memory":
        with _guard:
            return None if fs.exists(name) else _pipe(fs, name, data)
    return _put(fs, name, data, IfNoneMatch="*")


def swap(path: Path, data: bytes, tag: str) -> str | None:
    """Replace the object that has this tag; the new tag, or None where it has another one, or is gone.

    Content that was there before may get the tag that it had before: what is written must differ every time.
    """
    fs, name = file_system(path)
    if _kind(path) == "memory":
        with _guard:
            same = fs.exists(name) and digest(fs.cat_file(name)) == tag
            return _pipe(fs, name, data) if same else None
    return _put(fs, name, data, IfMatch=tag)


def _kind(path: Path) -> str:
    protocol = str(getattr(path, "protocol", "file"))
    if protocol in ("s3", "s3a", "memory"):
        return protocol
    raise PlaceError(
        f"{path}: expected a workspace on s3:// (or on this machine); {protocol}:// has no conditional writes here, "
        "so two runs could hold it at once"
    )


def _pipe(fs: Any, name: str, data: bytes) -> str:
    fs.pipe_file(name, data)
    return digest(data)


def _put(fs: Any, name: str, data: bytes, **condition: str) -> str | None:
    try:
        with told_as_os_error():
            return str(_call(fs, "put_object", name, Body=data, **condition)["ETag"])
    except OSError as error:
        if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey"):
            return None
        raise


def _call(fs: Any, method: str, name: str, **arguments: Any) -> Any:
    """One request to S3; s3fs itself tells nothing of tags and clocks."""
    from fsspec.asyn import sync

    bucket, key, _ = fs.split_path(name)
    return sync(fs.loop, fs._call_s3, method, Bucket=bucket, Key=key, **arguments)


def _code(error: OSError) -> str:
    """What S3 called the error; s3fs keeps it in the cause."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
