from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import storage.stages
from storage.arrays import ArrayError, ArraySpec
from storage.commits import CommitLog
from storage.stages import RehearsedError, StageError, StageFolder, rehearsal, stage_key, unit_name
from storage.verify import verify_workspace
from storage.workspace import Workspace

BASIS = {"dataset": {"format": "table", "max_pixels": 5}, "listing": "ab"}
SPEC = ArraySpec(name="label", rows=5, item=(2, 2), shard_rows=2, dtype="uint8", fill=255)


@pytest.fixture
def folder(workspace: Workspace) -> StageFolder:
    folder = workspace.stage("mask", stage_key("mask", BASIS))
    folder.begin(BASIS, shards=3, classes=["cat"], arrays=[SPEC], index_stage="stage-x")
    return folder


def rows_of(shard: int) -> pa.Table:
    return pa.table({"row": pa.array([2 * shard, 2 * shard + 1][: 2 if shard < 2 else 1], pa.int64())})


def write(folder: StageFolder, shard: int, value: int = 1) -> None:
    data = np.full((len(rows_of(shard)), 2, 2), value, np.uint8)
    folder.write(shard, arrays={"label": (shard, data)}, tables={"facts": rows_of(shard)}, facts={"value": value})


class TestStageKey:
    @given(st.dictionaries(st.text(max_size=4), st.integers() | st.lists(st.text(max_size=3)), max_size=4))
    @settings(max_examples=20, deadline=None)
    def test_order_of_settings_does_not_matter(self, basis: dict[str, Any]) -> None:
        assert stage_key("mask", dict(reversed(basis.items()))) == stage_key("mask", basis)

    def test_anything_else_does(self) -> None:
        changed = {**BASIS, "dataset": {**BASIS["dataset"], "max_pixels": 6}}
        keys = {stage_key("mask", BASIS), stage_key("mask", changed), stage_key("cam", BASIS), stage_key("mask", {})}
        assert len(keys) == 4


class TestStageFolder:
    def test_smoke(self, folder: StageFolder) -> None:
        assert folder.name == f"mask-{folder.key}"
        assert (folder.exists, folder.complete, folder.shards, folder.missing()) == (True, False, 3, [0, 1, 2])
        assert folder.spec("label") == SPEC
        for shard in (2, 0, 1):
            write(folder, shard, value=shard)
        assert folder.complete
        assert folder.table().column("row").to_pylist() == [0, 1, 2, 3, 4]
        assert folder.rows("label", 1, 2, 4).ravel().tolist() == [1] * 8
        assert folder.shard_table(2).column("row").to_pylist() == [4]
        assert folder.log.read("00001").facts == {"value": 1}

    def test_manifest_names_what_it_is_for(self, folder: StageFolder) -> None:
        again = StageFolder(folder.folder)
        assert again.manifest["basis"] == BASIS
        assert again.manifest["classes"] == ["cat"]
        assert again.manifest["index_stage"] == "stage-x"

    def test_begin_twice_changes_nothing(self, folder: StageFolder) -> None:
        write(folder, 0)
        before = (folder.folder / "manifest.json").read_bytes()
        folder.begin(BASIS, shards=99)
        assert (folder.folder / "manifest.json").read_bytes() == before
        assert folder.missing() == [1, 2]

    def test_begin_after_a_kill_between_array_and_manifest(self, folder: StageFolder) -> None:
        (folder.folder / "manifest.json").unlink()
        again = StageFolder(folder.folder)
        assert not again.exists
        assert not again.complete
        again.begin(BASIS, shards=3, arrays=[SPEC])
        assert again.missing() == [0, 1, 2]

    def test_same_content_same_bytes(self, tmp_path: Path) -> None:
        found = []
        for name in ("a", "b"):
            folder = Workspace(tmp_path / name).stage("mask", "k")
            folder.begin(BASIS, shards=3, arrays=[SPEC])
            write(folder, 0)
            files = (path for path in folder.folder.rglob("*") if path.is_file() and path.parent.name != "commits")
            found.append({path.relative_to(folder.folder): path.read_bytes() for path in files})
        assert found[0] == found[1]
        assert len(found[0]) == 4


class TestRehearsal:
    def test_nothing_is_written(self, folder: StageFolder) -> None:
        write(folder, 0)
        before = {path: path.read_bytes() for path in folder.folder.rglob("*") if path.is_file()}
        with rehearsal():
            for shard in (0, 1):
                with pytest.raises(RehearsedError, match=f"shard {shard} would be written now"):
                    write(folder, shard, value=2)
        assert {path: path.read_bytes() for path in folder.folder.rglob("*") if path.is_file()} == before
        write(folder, 1)
        assert folder.missing() == [2]


class TestOrder:
    def test_record_goes_first_and_comes_last(self, folder: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        write(folder, 0)
        seen: list[tuple[str, bool]] = []

        def watch(target: object, name: str, label: str) -> None:
            inner = getattr(target, name)

            def called(*args: Any, **kwargs: Any) -> Any:
                seen.append((label, folder.log.path("00000").exists()))
                return inner(*args, **kwargs)

            monkeypatch.setattr(target, name, called)

        watch(CommitLog, "withdraw", "withdraw")
        watch(storage.stages, "write_shard", "array")
        watch(storage.stages, "write_table", "table")
        watch(CommitLog, "commit", "commit")
        write(folder, 0, value=2)
        assert seen == [("withdraw", True), ("array", False), ("table", False), ("commit", False)]
        assert folder.log.read("00000").facts == {"value": 2}

    @pytest.mark.parametrize("point", ["write_shard", "write_table"])
    def test_a_failed_rewrite_leaves_no_record(
        self, folder: StageFolder, monkeypatch: pytest.MonkeyPatch, point: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError("disk full")

        write(folder, 0)
        monkeypatch.setattr(storage.stages, point, fail)
        with pytest.raises(OSError, match="disk full"):
            write(folder, 0, value=2)
        assert folder.missing() == [0, 1, 2]
        with pytest.raises(StageError, match="shard 0 has no commit record"):
            folder.rows("label", 0, 0, 2)

    def test_hashes_are_those_of_the_files(self, folder: StageFolder, workspace: Workspace) -> None:
        for shard in range(3):
            write(folder, shard)
        workspace.write_run({})
        assert verify_workspace(workspace) == (12, [])
        assert sorted(folder.log.read(unit_name(0)).objects) == ["facts/00000.parquet", "label.zarr/c/0/0/0"]


class TestRefusals:
    def test_table_while_shards_are_missing(self, folder: StageFolder) -> None:
        write(folder, 0)
        write(folder, 2)
        with pytest.raises(StageError, match="expected 3 committed shards, 1 are missing; run it first"):
            folder.table()

    def test_rows_without_a_record(self, folder: StageFolder) -> None:
        write(folder, 0)
        folder.log.withdraw("00000")
        for read in (lambda: folder.rows("label", 0, 0, 2), lambda: folder.shard_table(0)):
            with pytest.raises(StageError, match="shard 0 has no commit record; its rows do not exist yet"):
                read()

    def test_unknown_array(self, folder: StageFolder) -> None:
        with pytest.raises(StageError, match=r"expected an array 'soft', has \['label'\]"):
            folder.spec("soft")

    def test_no_manifest(self, workspace: Workspace) -> None:
        with pytest.raises(StageError, match="expected the manifest of a stage, saw"):
            _ = workspace.stage("mask", "absent").shards

    def test_damaged_manifest(self, folder: StageFolder) -> None:
        path = folder.folder / "manifest.json"
        path.write_bytes(path.read_bytes().replace(b'"shards":3', b'"shards":2'))
        with pytest.raises(StageError, match="content and its digest disagree"):
            _ = StageFolder(folder.folder).shards

    def test_foreign_array_under_the_same_name(self, workspace: Workspace) -> None:
        folder = workspace.stage("mask", "k")
        folder.begin(BASIS, shards=1, arrays=[SPEC])
        (folder.folder / "manifest.json").unlink()
        other = ArraySpec(name="label", rows=9, item=(2, 2), shard_rows=2, dtype="uint8", fill=255)
        with pytest.raises(ArrayError, match="saw"):
            StageFolder(folder.folder).begin(BASIS, shards=1, arrays=[other])
