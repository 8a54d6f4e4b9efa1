"""Files that are either whole or absent: canonical JSON, hashes, atomic writes, the sweep of what a kill left behind.

Every file of a workspace is written to a dot-prefixed temporary beside it, flushed to the disk and renamed, so that a
reader sees the old file or the new one and never a part.
"""

import hashlib
import io
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1
TEMPORARY = ".tmp"
_STRAYS = (".*" + TEMPORARY, "*.partial")


def canonical_json(value: Any) -> bytes:
    """JSON that is the same for the same content: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_key(basis: Any) -> str:
    """The key of a stage: the first 12 hex digits of the SHA-256 of its canonical JSON."""
    return digest(canonical_json(basis))[:12]


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a whole file: temporary, fsync, rename, fsync of the folder.

    Raises
    ------
    OSError
        The disk is full or read-only; the temporary is removed and an earlier file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:64]}.{uuid.uuid4().hex[:12]}{TEMPORARY}"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def seal(value: dict[str, Any]) -> bytes:
    """Canonical JSON of a mapping together with its own digest, so that any changed bit shows.

    Raises
    ------
    ValueError
        The mapping has a key ``digest`` of its own.
    """
    if "digest" in value:
        raise ValueError("expected no key 'digest' in what is sealed")
    return canonical_json({**value, "digest": digest(canonical_json(value))})


def unseal(data: bytes) -> dict[str, Any]:
    """Read back what :func:`seal` gave.

    Raises
    ------
    ValueError
        The bytes are not exactly what was sealed.
    """
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, saw {type(value).__name__}")
    value.pop("digest", None)
    if seal(value) != data:
        raise ValueError("its content and its digest disagree")
    return value


def table_bytes(table: pa.Table) -> bytes:
    """A table as Parquet; ``schema_version`` is added to the file's metadata. The same table gives the same bytes."""
    metadata = {**(table.schema.metadata or {}), b"schema_version": str(SCHEMA_VERSION).encode()}
    metadata.pop(b"pandas", None)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    return buffer.getvalue()


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    write_bytes_atomic(path, table_bytes(table))


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
    strays = [path for pattern in _STRAYS for path in root.rglob(pattern) if path.is_file()]
    for path in strays:
        path.unlink()
    return strays
