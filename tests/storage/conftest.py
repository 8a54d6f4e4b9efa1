"""Hand-made indexes and workspaces for the tests of the data contract."""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage.commits import CommitLog
from storage.files import write_bytes_atomic, write_table
from storage.index import SCHEMA, ImageIndex, build_index
from storage.labels import label_specs, to_canvas
from storage.models import UNIT, WEIGHTS
from storage.places import place
from storage.stages import StageFolder
from storage.workspace import Workspace
from tests.storage.object_store import BUCKET, s3_server

INSPECTED = SCHEMA.names[: SCHEMA.names.index("canvas_height")]


def inspected(sizes: Sequence[tuple[int, int] | None], **changes: list[object]) -> pa.Table:
    """What staging hands to ``build_index``: one image per size (height, width), quarantined where it is None."""
    rows = []
    for number, size in enumerate(sizes):
        height, width = size or (None, None)
        row = {
            "image_id": f"i{number}",
            "path": f"images/i{number}.png",
            "split": "train" if number % 2 == 0 else "val",
            "width": width,
            "height": height,
            "mode": "RGB" if size else None,
            "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
            "labels": [["cat"], ["dog"], [], ["cat", "dog"]][number % 4],
            "status": "ok" if size else "quarantined",
            "reason": "" if size else "damaged",
            "orientation": 1 if size else None,
            "bytes": 100 + number,
        }
        rows.append({**row, **{name: values[number] for name, values in changes.items()}})
    return pa.Table.from_pylist(rows, pa.schema([SCHEMA.field(name) for name in INSPECTED]))


@pytest.fixture(scope="session")
def table_of() -> Callable[..., pa.Table]:
    return inspected


@pytest.fixture(scope="session")
def index_of_sizes() -> Callable[..., ImageIndex]:
    def make(sizes: Sequence[tuple[int, int] | None], **changes: list[object]) -> ImageIndex:
        return build_index(inspected(sizes, **changes), ("cat", "dog"))

    return make


@pytest.fixture(scope="session")
def write_labels() -> Callable[..., StageFolder]:
    """Write the label set of an index: every pixel of row r holds r, its confidence 100 + r."""

    def write(workspace: Workspace, index: ImageIndex, size: int, skip: Sequence[int] = ()) -> StageFolder:
        staged = workspace.stage("stage", "a" * 12)
        write_bytes_atomic(staged.folder / "images.parquet", index.to_bytes())
        folder = workspace.stage("mask", "b" * 12)
        shards = index.shards(size)
        folder.begin(
            {"shard_images": size},
            shards=len(shards),
            classes=index.classes,
            arrays=label_specs(index, size),
            index_stage=staged.name,
        )
        for shard in shards:
            if shard.number in skip:
                continue
            masks = {row: np.full(index.sizes[row], row, np.uint8) for row in index.working_rows(shard)}
            arrays = {
                index.array_name("label", shard.canvas): (shard.object, to_canvas(masks, shard, 255)),
                index.array_name("confidence", shard.canvas): (
                    shard.object,
                    to_canvas({row: mask + 100 for row, mask in masks.items()}, shard, 0),
                ),
            }
            facts = pa.table({"row": pa.array(list(shard.rows), pa.int64())})
            folder.write(shard.number, arrays=arrays, tables={"facts": facts}, facts={"images": len(masks)})
        return folder

    return write


@pytest.fixture
def fill(
    index_of_sizes: Callable[..., ImageIndex], write_labels: Callable[..., StageFolder]
) -> Callable[[Workspace], Workspace]:
    """Write everything that a run leaves: staged data, masks, a model, a report, index and run record."""

    def write(workspace: Workspace) -> Workspace:
        index = index_of_sizes([(9, 7), (8, 8), None, (5, 5)])
        labels = write_labels(workspace, index, 2)
        staged = workspace.stage("stage", "a" * 12)
        staged.begin({"listing": "ab"}, shards=1)
        staged.write(0, tables={"facts": pa.table({"row": [0, 1]})})
        staged.log.commit("index", [staged.folder / "images.parquet"], facts={}, began=0.0)
        model, report = workspace.model("classifier", "k"), workspace.report("r")
        write_bytes_atomic(model / WEIGHTS, bytes(range(100)))
        write_bytes_atomic(model / "model.json", b'{"backbone":"small"}')
        CommitLog(model).commit(UNIT, [model / WEIGHTS, model / "model.json"], facts={}, began=0.0)
        write_table(report / "metrics.parquet", pa.table({"value": [0.5]}))
        write_bytes_atomic(report / "index.html", b"<!doctype html>")
        CommitLog(report).commit("report", [report / "metrics.parquet", report / "index.html"], facts={}, began=0.0)
        write_bytes_atomic(workspace.index_path, index.to_bytes())
        with workspace.hold():
            workspace.write_run({"labels": [labels.name]})
        return workspace

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Prefix in an S3 server that runs in this process."""
    with s3_server():
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> Path:
    """A place of its own in an object store."""
    if request.param == "memory":
        return place(f"memory://tests/{uuid.uuid4().hex}")
    return place(request.getfixturevalue("s3")) / uuid.uuid4().hex
