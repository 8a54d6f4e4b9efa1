"""What two workspaces are compared by: everything a run computed, nothing that tells when or where."""

from pathlib import Path

import pyarrow.parquet as pq

from storage.files import digest, table_bytes

Identity = tuple[int, int]


def contents(workspace: Path) -> dict[str, str]:
    """Digest of every array object, table, weight file and page by path.

    Left out are the lock, the commit records, ``run.json`` and the history of runs (they tell durations and the host),
    and from tables the column ``checked_ns``.
    """
    found = {}
    for path in sorted(workspace.rglob("*")):
        if not path.is_file() or path.parent.name in ("commits", "runs") or path.name in ("lock", "run.json"):
            continue
        found[str(path.relative_to(workspace))] = digest(_content(path))
    return found


def results(workspace: Path) -> dict[str, str]:
    """The same without the report's page: it shows the configuration, which tells who did the work."""
    return {name: value for name, value in contents(workspace).items() if not name.endswith("report.html")}


def _content(path: Path) -> bytes:
    if path.suffix == ".parquet":
        table = pq.ParquetFile(path).read()
        if "checked_ns" in table.column_names:
            return table_bytes(table.drop_columns("checked_ns"))
    return path.read_bytes()


def records(workspace: Path) -> dict[str, Identity]:
    """Commit records by path, with what tells one file from another of the same name."""
    paths = workspace.glob("*/*/commits/[!.]*.json")
    return {str(path.relative_to(workspace)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def uncommitted(workspace: Path) -> list[str]:
    """Shards whose tables are there and whose commit record is not: work that a kill lost."""
    tables = workspace.glob("stages/*/facts/[!.]*.parquet")
    return [str(path) for path in tables if not (path.parents[1] / "commits" / f"{path.stem}.json").exists()]
