"""Where a workspace lies: a folder of this machine, or a prefix in an object store.

A local place is a plain :class:`pathlib.Path`. Any other is a ``UPath``, which has the same interface and no folders:
a prefix exists as long as an object below it does. Everything above this file names places with ``/`` and asks
:mod:`storage.files` to read and write them, so that only these two know the difference.
"""

from pathlib import Path
from typing import Any, TypeGuard, cast

from configs import ConfigError

LOCAL = ("file", "local")
STORES = ("s3", "s3a", "memory")
"""Stores whose conditional writes are known to hold a workspace for one run."""
# Listings that fsspec keeps would hide what other processes commit.
_FRESH: dict[str, Any] = {"use_listings_cache": False}


class PlaceError(ConfigError):
    """A place that cannot be used: nothing speaks its protocol."""


def place(text: str | Path) -> Path:
    """The place that a text names.

    Parameters
    ----------
    text
        A path of this machine, ``file://…``, or ``s3://bucket/prefix`` (``memory://`` in tests). A URL that went
        through :class:`pathlib.Path`, which leaves one slash of two (``s3:/bucket/prefix``), is understood as well. A
        place is returned as it is.

    Returns
    -------
    pathlib.Path
        Absolute; for an object store a ``UPath``, which is none but can do the same.

    Raises
    ------
    PlaceError
        A protocol without a package that speaks it, or a URL without a bucket.

    References
    ----------
    universal_pathlib, ``UPath``; filesystem_spec, URL schemes.

    Examples
    --------
    >>> str(place("memory://bucket/run") / "stages")
    'memory://bucket/run/stages'
    >>> place(Path("memory://bucket/run")) == place("memory://bucket/run")
    True
    >>> is_local(place("file:///tmp/run"))
    True
    """
    if not isinstance(text, str) and not is_local(text):
        return text
    protocol, rest = _split(str(text))
    if not protocol:
        return Path(text).absolute()
    if protocol in LOCAL:
        return Path("/" + rest)
    if not rest:
        raise PlaceError(f"expected {protocol}://BUCKET/PREFIX, saw {str(text)!r}")
    from upath import UPath

    try:
        options = {} if protocol == "memory" else _FRESH
        found = UPath(f"{protocol}://{rest}", **options)
        found.fs  # noqa: B018  # finds out whether the package is there
    except ImportError as error:
        extra = "; pip install -e '.[s3]' in the checkout" if protocol in ("s3", "s3a") else ""
        raise PlaceError(f"{protocol}://{rest}: {error}{extra}") from error
    return cast(Path, found)


def is_local(path: object) -> bool:
    """Whether a place is a path of this machine."""
    return isinstance(path, Path)


def is_place(value: object) -> TypeGuard[Path]:
    """Whether something is a place at all, here or in a store."""
    from upath import UPath

    return isinstance(value, Path | UPath)


def file_system(path: Path) -> tuple[Any, str]:
    """The fsspec file system of a place in an object store, and the place's name there."""
    remote: Any = path
    return remote.fs, remote.path


def read_whole(path: Path) -> bytes:
    """Content of a file; of an object in one request, so that it is never a part of one and a part of another."""
    if is_local(path):
        return path.read_bytes()
    fs, name = file_system(path)
    return bytes(fs.cat_file(name))


def _split(text: str) -> tuple[str, str]:
    """Protocol and rest of a URL, healed of a lost slash; no protocol for a path."""
    protocol, colon, rest = text.partition(":/")
    if not colon or not protocol.isascii() or not protocol.isalnum() or len(protocol) < 2:
        return "", text
    if protocol not in (*LOCAL, *STORES):
        if rest.startswith("/"):
            raise PlaceError(f"{text}: expected a path or s3://BUCKET/PREFIX, saw the protocol {protocol!r}")
        return "", text
    return protocol, rest.strip("/")
