import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.adopt import kin_key, layout_of
from storage.arrays import ArraySpec
from storage.aside import read_aside, set_aside
from storage.files import write_bytes_atomic, write_table
from storage.index import ImageIndex, build_index
from storage.labels import LabelStore, label_specs, to_canvas
from storage.stages import StageFolder, stage_key
from storage.verify import verify_workspace
from storage.workspace import Workspace

Table = Callable[..., pa.Table]
CLASSES = ("cat", "dog")
SIZE = 3
Made = tuple[StageFolder, StageFolder]


@pytest.fixture
def stage(workspace: Workspace, table_of: Table) -> Callable[..., ImageIndex]:
    """Stage some images, by name, after an earlier index."""

    def make(name: str, ids: list[str], before: ImageIndex | None = None, **sources: list[object]) -> ImageIndex:
        hashes = [f"{image_id:>064}" for image_id in ids]
        named: dict[str, list[object]] = {
            "image_id": list(ids),
            "sha256": list(hashes),
            "labels": [["cat"]] * len(ids),
            "split": ["val"] * len(ids),
        }
        index = build_index(table_of([(4, 5)] * len(ids), **named), CLASSES, before)
        known = dict(zip(ids, range(len(ids)), strict=True))
        order = [known[image_id] for image_id in index.ids]
        none: list[object] = [None] * len(ids)
        columns = {key: sources.get(key, none) for key in ("mask_kind", "mask_sha256", "boxes", "orientation")}
        folder = workspace.root / "stages" / name
        write_bytes_atomic(folder / "images.parquet", index.to_bytes())
        write_table(
            folder / "sources.parquet", pa.table({key: [one[row] for row in order] for key, one in columns.items()})
        )
        return index

    return make


def begin(
    workspace: Workspace, stage: str, index: ImageIndex, staged: str, arrays: list[ArraySpec], **basis: Any
) -> StageFolder:
    basis = {"index": index.key, "shard_images": SIZE, **basis}
    folder = workspace.stage(stage, stage_key(stage, basis))
    folder.begin(basis, shards=len(index.shards(SIZE)), classes=CLASSES, arrays=arrays, index_stage=staged)
    return folder


def fill(folder: StageFolder, index: ImageIndex, values: dict[str, int], room: int) -> None:
    """Do what is missing: a pair and a mask per image, whose value is the image's own."""
    for part in index.shards(SIZE):
        if part.number not in folder.missing():
            continue
        rows = index.working_rows(part)
        pairs = {"row": rows, "pair": [part.number * room + place for place in range(len(rows))]}
        facts = pa.table({**pairs, "image_id": [index.ids[row] for row in rows]})
        if "score" in [one["name"] for one in folder.manifest["arrays"]]:
            data = np.asarray([values[index.ids[row]] for row in rows], np.float16)[:, None, None] * np.ones(
                (1, 2, 2), np.float16
            )
            folder.write(part.number, arrays={"score": (part.number, data)}, tables={"facts": facts}, device="cpu")
        else:
            masks = {row: np.full(index.sizes[row], values[index.ids[row]], np.uint8) for row in rows}
            name = index.array_name("label", part.canvas)
            arrays = {name: (part.object, to_canvas(masks, part, 255))}
            folder.write(part.number, arrays=arrays, tables={"facts": facts}, device="cpu")


def make(workspace: Workspace, index: ImageIndex, staged: str, *, room: int = 4, **basis: Any) -> Made:
    """Begin soft maps and masks of an index; the second is made from the first."""
    rows = len(index.shards(SIZE)) * room
    score = ArraySpec(name="score", rows=rows, item=(2, 2), shard_rows=room, dtype="float16", fill=-1.0)
    maps = begin(workspace, "propose", index, staged, [score], **basis)
    labels = begin(workspace, "mask", index, staged, label_specs(index, SIZE, ["label"]), proposal=maps.name)
    return maps, labels


def check(folders: Made, index: ImageIndex, values: dict[str, int]) -> None:
    """Everything is where the index says, whoever computed it."""
    maps, labels = folders
    room = maps.spec("score").shard_rows
    store = LabelStore(labels, index)
    seen = []
    for part in index.shards(SIZE):
        stored = maps.rows("score", part.number, part.number * room, (part.number + 1) * room)
        for folder in folders:
            for fact in folder.shard_table(part.number).to_pylist():
                assert index.ids[fact["row"]] == fact["image_id"]
                assert stored[fact["pair"] - part.number * room].max() == values[fact["image_id"]]
                seen.append(fact["row"])
    assert sorted(seen) == sorted(2 * list(range(len(index))))
    assert {int(store.mask(row).max()): int(store.mask(row).min()) for row in range(len(index))} == {
        value: value for name, value in values.items() if name in index.ids
    }


@pytest.fixture
def first(workspace: Workspace, stage: Callable[..., ImageIndex]) -> tuple[ImageIndex, Made, dict[str, int]]:
    """Eight images, three shards, all made."""
    ids = [f"i{number}" for number in range(8)]
    values = {name: number + 1 for number, name in enumerate([*ids, "n0", "n1", "n2", "n3"])}
    index = stage("stage-a", ids)
    made = make(workspace, index, "stage-a")
    for folder in made:
        assert folder.missing() == [0, 1, 2]
        fill(folder, index, values, 4)
    return index, made, values


First = tuple[ImageIndex, Made, dict[str, int]]
Stage = Callable[..., ImageIndex]


class TestAdopt:
    @pytest.mark.parametrize(
        ("ids", "missing"),
        [
            (["i0", "i1", "i2", "i3", "i4", "i5", "i6", "i7", "n0"], [2]),
            (["n0", "n1", "i0", "i1", "i2", "i3", "i4", "i5", "i6", "i7"], [2, 3]),
            (["i0", "i1", "i2", "i3", "i5", "i6", "i7"], [1]),
            (["i0", "i2", "i3", "i4", "i5", "i6", "i7", "n0", "n1"], [0, 2, 3]),
            (["i3", "i4", "i5", "i6", "i7"], []),
            (["i0", "i1", "i2", "i3", "i4", "i5"], []),
        ],
    )
    @pytest.mark.parametrize("room", [3, 4, 7])
    def test_what_is_left_to_do(
        self, workspace: Workspace, stage: Stage, first: First, ids: list[str], missing: list[int], room: int
    ) -> None:
        before, _, values = first
        index = stage("stage-b", ids, before)
        made = make(workspace, index, "stage-b", room=room)
        for folder in made:
            assert folder.missing() == missing
            fill(folder, index, values, room)
        check(made, index, values)
        check(first[1], before, values)
        assert verify_workspace(workspace)[1] == []

    def test_the_record_tells_who_computed(self, workspace: Workspace, stage: Stage, first: First) -> None:
        before, (maps, _), _ = first
        index = stage("stage-b", [*before.ids, "n0"], before)
        again, _ = make(workspace, index, "stage-b")
        record, origin = again.log.read("00001"), maps.log.read("00001")
        assert record.facts["adopted"]["folder"] == maps.name
        assert record.device == "cpu"
        assert record.objects == origin.objects
        one, other = (folder.folder / "score.zarr/c/1/0/0" for folder in (maps, again))
        assert one.stat().st_ino == other.stat().st_ino

    def test_a_file_system_without_links(
        self, workspace: Workspace, stage: Stage, first: First, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuses(*_: object) -> None:
            raise OSError("not supported")

        monkeypatch.setattr(os, "link", refuses)
        before, _, values = first
        index = stage("stage-b", [*before.ids, "n0"], before)
        made = make(workspace, index, "stage-b")
        for folder in made:
            assert folder.missing() == [2]
            fill(folder, index, values, 4)
        check(made, index, values)
        assert verify_workspace(workspace)[1] == []

    @pytest.mark.parametrize(
        "path", ["score.zarr/c/1/0/0", "facts/00001.parquet", "commits/00001.json", "score.zarr/zarr.json"]
    )
    def test_damage_is_not_taken_over(self, workspace: Workspace, stage: Stage, first: First, path: str) -> None:
        before, (maps, _), _ = first
        file: Path = maps.folder / path
        file.write_bytes(file.read_bytes()[:-2])
        index = stage("stage-b", [*before.ids, "n0"], before)
        again, _ = make(workspace, index, "stage-b")
        assert 1 in again.missing() or path.endswith("zarr.json")

    @pytest.mark.parametrize("change", [{"weights": "other"}, {"shard_images": SIZE, "proposal": {"truncation": 40}}])
    def test_other_settings_are_no_kin(
        self, workspace: Workspace, stage: Stage, first: First, change: dict[str, Any]
    ) -> None:
        before = first[0]
        index = stage("stage-b", [*before.ids, "n0"], before)
        for folder in make(workspace, index, "stage-b", **change):
            assert folder.missing() == [0, 1, 2]

    @pytest.mark.parametrize(("column", "value"), [("mask_sha256", "f" * 64), ("boxes", "{}"), ("orientation", 6)])
    def test_other_ground_truth_touches_its_shard(
        self, workspace: Workspace, stage: Stage, first: First, column: str, value: object
    ) -> None:
        before = first[0]
        index = stage("stage-b", before.ids, before, **{column: [None] * 4 + [value] + [None] * 3})
        folder = begin(workspace, "propose", index, "stage-b", [], other=1)
        assert folder.missing() == [0, 1, 2]
        again = layout_of(workspace.root / "stages", "stage-b", SIZE).keys
        known = layout_of(workspace.root / "stages", "stage-a", SIZE).keys
        assert [one == other for one, other in zip(again, known, strict=True)] == [True, False, True]

    def test_images_that_were_left_out_stay_so(self, workspace: Workspace, stage: Stage, first: First) -> None:
        before, (maps, _), _ = first
        set_aside(maps, 1, {4: "it kills"})
        index = stage("stage-b", before.ids[1:], before)
        again, _ = make(workspace, index, "stage-b")
        assert read_aside(again, 1) == {3: "it kills"}
        assert index.ids[3] == before.ids[4]

    def test_the_original_may_go(self, workspace: Workspace, stage: Stage, first: First) -> None:
        before, (maps, _), values = first
        index = stage("stage-b", [*before.ids, "n0"], before)
        made = make(workspace, index, "stage-b")
        for path in sorted(maps.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for folder in made:
            fill(folder, index, values, 4)
        check(made, index, values)


class TestKinKey:
    def test_stages_are_replaced_by_what_they_stand_for(self, workspace: Workspace, stage: Stage, first: First) -> None:
        before, (maps, labels), _ = first
        stages = workspace.root / "stages"
        index = stage("stage-b", [*before.ids, "n0"], before)
        other, masks = make(workspace, index, "stage-b")
        assert labels.name != masks.name
        assert kin_key(stages, labels.name, labels.manifest["basis"], CLASSES) == kin_key(
            stages, masks.name, masks.manifest["basis"], CLASSES
        )
        assert kin_key(stages, maps.name, {"proposal": "propose-000000000000"}, CLASSES) != kin_key(
            stages, maps.name, {"proposal": other.name}, CLASSES
        )

    def test_classes_and_stage_count(self, workspace: Workspace) -> None:
        keys = {
            kin_key(workspace.root, name, {"index": index}, classes)
            for name in ("mask-1", "scg-1")
            for classes in (("a",), ("a", "b"))
            for index in ("1", "2")
        }
        assert len(keys) == 4
