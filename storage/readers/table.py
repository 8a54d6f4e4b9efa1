"""A table with one row for each image: CSV, or Parquet, every value read as text."""

import csv
import io
from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from configs.dataset import TableDataset
from storage.readers.listing import Classes, check_id, list_bytes, list_text, make_listing
from storage.samples import Listing, MaskSource, Sample, StagingError

NO_SPLIT = "all"
_PARQUET = {".parquet", ".pq"}

Row = dict[str, str]


def read_table(config: TableDataset) -> Listing:
    """List the images that a table names, in its order.

    Parameters
    ----------
    config
        Section ``dataset`` with ``format: table``. The file's suffix tells CSV (comma, UTF-8, a header) from Parquet.

    Raises
    ------
    StagingError
        Columns that are not there, a value other than 0 or 1 in a label column, an unknown class, an id twice, a
        wanted split without a row, or settings that contradict each other.
    """
    _check_settings(config)
    if config.label_columns and config.classes is None:
        classes = Classes(config.label_columns)
    else:
        classes = Classes(config.classes)
    samples: list[Sample] = []
    splits: set[str] = set()
    for source, row in _rows(config):
        split = row[config.split_column] if config.split_column else NO_SPLIT
        splits.add(split)
        if _wanted(config, split, source):
            samples.append(_sample(config, classes, split, source, row))
    if absent := set(config.split or []) - splits:
        raise StagingError(
            f"{config.table}: expected rows with split {', '.join(sorted(absent))}, column {config.split_column} "
            f"holds only {', '.join(sorted(splits)) or 'nothing'}"
        )
    return make_listing(samples, classes, config.table)


def _check_settings(config: TableDataset) -> None:
    if (config.labels is None) == (config.label_columns is None):
        raise StagingError("dataset: expected one of labels and label_columns for format table")
    if not config.separator:
        raise StagingError("dataset.separator: expected at least one character")
    if config.split and not config.split_column:
        raise StagingError("dataset.split_column: expected the column that tells the split, saw none")
    if config.classes and config.label_columns and set(config.classes) != set(config.label_columns):
        raise StagingError(
            f"dataset.classes: expected the names in label_columns ({', '.join(config.label_columns)}), "
            f"saw {', '.join(config.classes)}"
        )


def _wanted(config: TableDataset, split: str, source: str) -> bool:
    if config.split is not None and split in config.split:
        return True
    # A row of another split is left out, but not one whose split is only written badly.
    may_be_meant = config.split is None or split.strip() in config.split
    if may_be_meant and (not split or split != split.strip()):
        raise StagingError(f"{source}: expected a split without surrounding space, saw {split!r}")
    return config.split is None


def _sample(config: TableDataset, classes: Classes, split: str, source: str, row: Row) -> Sample:
    path = row[config.path]
    if not path:
        raise StagingError(f"{source}: expected a path in column {config.path}, saw none")
    image_id = check_id(row[config.id] if config.id else path, source)
    labels = classes.check(_labels(config, source, row), source)
    mask_path = row[config.mask] if config.mask else ""
    mask = MaskSource(config.mask_values, mask_path) if mask_path else None
    return Sample(image_id, path, split, labels, source, mask=mask)


def _labels(config: TableDataset, source: str, row: Row) -> list[str]:
    if config.labels is not None:
        return [name for name in row[config.labels].split(config.separator) if name]
    columns = config.label_columns or []
    for column in columns:
        if row[column] not in {"0", "1"}:
            raise StagingError(f"{source}: expected 0 or 1 in column {column}, saw {row[column]!r}")
    return [column for column in columns if row[column] == "1"]


def _rows(config: TableDataset) -> Iterator[tuple[str, Row]]:
    """Rows by column name, each with file and line (of Parquet: number, the first is 1)."""
    wanted = [config.path, config.id, config.labels, config.mask, config.split_column, *(config.label_columns or [])]
    names = list(dict.fromkeys(name for name in wanted if name))
    if PurePosixPath(config.table).suffix.lower() in _PARQUET:
        return _parquet_rows(config, names)
    return _csv_rows(config, names)


def _csv_rows(config: TableDataset, names: list[str]) -> Iterator[tuple[str, Row]]:
    lines = csv.reader(io.StringIO(list_text(config.root, config.table), newline=""), strict=True)
    try:
        header = next(lines, [])
        _check_columns(config, header, names)
        places = {name: header.index(name) for name in names}
        for values in lines:
            source = f"{config.table}:{lines.line_num}"
            if not values:
                continue
            if len(values) != len(header):
                raise StagingError(f"{source}: expected {len(header)} values, saw {len(values)}")
            yield source, {name: values[place] for name, place in places.items()}
    except csv.Error as error:
        raise StagingError(f"{config.table}:{lines.line_num}: expected CSV, saw {error}") from error


def _parquet_rows(config: TableDataset, names: list[str]) -> Iterator[tuple[str, Row]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(list_bytes(config.root, config.table)))
        _check_columns(config, file.schema_arrow.names, names)
        table = file.read(columns=names)
    except pa.ArrowException as error:
        raise StagingError(f"{config.table}: expected a Parquet file, saw {error}") from error
    for number, values in enumerate(table.to_pylist(), start=1):
        yield f"{config.table} row {number}", {name: _text(values[name]) for name in names}


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    # Numbers with gaps are floats in many tables, and flags are truth values.
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)


def _check_columns(config: TableDataset, found: list[str], names: list[str]) -> None:
    if missing := [name for name in names if name not in found]:
        raise StagingError(
            f"{config.table}: expected the columns {', '.join(missing)}, saw only {', '.join(map(repr, found))}"
        )
    if twice := [name for name in names if found.count(name) > 1]:
        raise StagingError(f"{config.table}: expected every column once, saw {', '.join(twice)} more than once")
