"""Content of files: canonical JSON, hashes, sealed mappings, tables. How they are kept: :mod:`storage.writing`."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.places import is_local, read_whole
from storage.writing import TEMPORARY, sweep_strays, sync_file, sync_folder, write_bytes_atomic

__all__ = [
    "SCHEMA_VERSION",
    "TEMPORARY",
    "canonical_json",
    "digest",
    "file_digest",
    "read_table",
    "seal",
    "short_key",
    "sweep_strays",
    "sync_file",
    "sync_folder",
    "table_bytes",
    "unseal",
    "write_bytes_atomic",
    "write_table",
]

SCHEMA_VERSION = 1


def canonical_json(value: Any) -> bytes:
    """JSON that is the same for the same content: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hex, read in blocks."""
    if not is_local(path):
        return digest(read_whole(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_key(basis: Any) -> str:
    """The key of a stage: the first 12 hex digits of the SHA-256 of its canonical JSON."""
    return digest(canonical_json(basis))[:12]


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


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns."""
    return pq.ParquetFile(path if is_local(path) else pa.BufferReader(read_whole(path))).read(columns=columns)
