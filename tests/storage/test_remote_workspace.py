"""The data contract in an object store: the same names and bytes as in a folder, without one file of this machine."""

import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.adopt import kin_key
from storage.aside import all_aside, set_aside
from storage.checkpoints import CheckpointError, load_checkpoint, remove_checkpoint, save_checkpoint
from storage.commits import CommitError, CommitLog
from storage.files import read_table
from storage.history import past_runs, remember
from storage.labels import LabelStore, open_labels
from storage.models import WEIGHTS, describe, is_saved, weights_digest
from storage.places import read_whole
from storage.prune import freed_bytes, plan_pruning, prune
from storage.stages import StageError
from storage.verify import repair, verify_workspace
from storage.weights import WeightsError, find_weights, load_state, save_state
from storage.workspace import Workspace, WorkspaceError, WorkspaceHeldError
from storage.writing import link_file, modified_ns

Fill = Callable[[Workspace], Workspace]


@pytest.fixture
def workspace() -> Workspace:
    """One in memory; what goes to a server is hundreds of requests for a whole one."""
    return Workspace(f"memory://tests/{uuid.uuid4().hex}")


@pytest.fixture
def whole(workspace: Workspace, fill: Fill) -> Workspace:
    return fill(workspace)


def objects(workspace: Workspace) -> dict[str, bytes]:
    """Everything that lies there, by name."""
    paths = [path for path in workspace.root.rglob("*") if path.is_file()]
    return {str(path.relative_to(workspace.root)): read_whole(path) for path in paths if path.name != "lock"}


class TestContent:
    def test_same_names_and_bytes_as_in_a_folder(self, remote: Path, fill: Fill, tmp_path: Path) -> None:
        whole = fill(Workspace(remote))
        here, there = objects(fill(Workspace(tmp_path / "ws"))), objects(whole)
        assert sorted(here) == sorted(there)
        records = {name for name in here if "/commits/" in name}  # they hold the seconds
        assert {name: here[name] for name in here if name not in records} == {
            name: there[name] for name in there if name not in records
        }
        for name in sorted(records):
            folder, _, unit = name.removesuffix(".json").partition("/commits/")
            assert (
                CommitLog(whole.root / folder).read(unit).objects
                == CommitLog(tmp_path / "ws" / folder).read(unit).objects
            )
        assert {row: int(mask.max()) for row, mask in open_labels(whole)} == {0: 0, 1: 1, 3: 3}
        _damage_and_repair(whole)

    def test_an_empty_place(self, workspace: Workspace) -> None:
        assert workspace.stages() == []
        assert workspace.owner() is None
        assert past_runs(workspace) == []
        assert verify_workspace(workspace) == (0, [])
        with pytest.raises(WorkspaceError, match="is this a workspace"):
            workspace.read_run()


def _damage_and_repair(whole: Workspace) -> None:
    masks, model = whole.stage("mask", "b" * 12), whole.model("classifier", "k")
    for path in (masks.folder / "label.zarr/c/1/0/0", model / WEIGHTS):
        path.write_bytes(b"damage")
    (masks.folder / "facts/00001.parquet").unlink()
    assert repair(verify_workspace(whole)[1]) == 2
    assert verify_workspace(whole)[1] == []
    assert masks.missing() == [1]
    assert not is_saved(model)


class TestStages:
    def test_masks_come_back(self, whole: Workspace) -> None:
        store = open_labels(whole)
        assert {row: int(mask.max()) for row, mask in store} == {0: 0, 1: 1, 3: 3}
        assert np.array_equal(store.mask(1, "confidence"), np.full((8, 8), 101, np.uint8))
        assert isinstance(store, LabelStore)

    def test_missing_shards(self, whole: Workspace) -> None:
        masks = whole.stage("mask", "b" * 12)
        assert masks.complete
        masks.log.withdraw("00001")
        assert masks.missing() == [1]
        with pytest.raises(StageError, match="has no commit record"):
            masks.shard_table(1)
        with pytest.raises(StageError, match="1 are missing"):
            masks.table()

    def test_names_are_listed(self, whole: Workspace) -> None:
        assert [stage.name for stage in whole.stages()] == [f"mask-{'b' * 12}", f"stage-{'a' * 12}"]
        manifest = whole.stage("mask", "b" * 12).manifest
        assert kin_key(whole.root / "stages", f"mask-{'b' * 12}", manifest["basis"], manifest["classes"])

    def test_images_that_are_left_out(self, whole: Workspace) -> None:
        masks = whole.stage("mask", "b" * 12)
        assert all_aside(masks) == {}
        set_aside(masks, 0, {1: "it kills"})
        assert all_aside(masks) == {1: "it kills"}

    def test_a_shard_that_is_taken_over(self, whole: Workspace) -> None:
        masks = whole.stage("mask", "b" * 12)
        source, target = masks.folder / "facts" / "00000.parquet", whole.root / "stages/other/facts/00004.parquet"
        assert link_file(source, target) == target
        assert read_table(target).equals(read_table(source))
        assert modified_ns(target) > 0


class TestModels:
    def test_round_trip(self, whole: Workspace) -> None:
        folder = whole.model("classifier", "k")
        assert is_saved(folder)
        assert describe(folder) == {"backbone": "small"}
        assert weights_digest(folder) == "bce0aff19cf5aa6a7469a30d61d04e4376e4bbf6381052ee9e7f33925c954d52"

    def test_weights(self, remote: Path) -> None:
        path = Workspace(remote).model("net", "k") / WEIGHTS
        save_state(path, {"a": torch.arange(6.0).reshape(2, 3)})
        assert torch.equal(load_state(path)["a"], torch.arange(6.0).reshape(2, 3))
        assert find_weights(str(path)).path == path
        with pytest.raises(WeightsError, match="no file"):
            find_weights(str(path.parent / "other.safetensors"))

    def test_checkpoint(self, remote: Path) -> None:
        path = Workspace(remote).model("net", "k") / "checkpoint.pt"
        assert load_checkpoint(path) is None
        save_checkpoint(path, {"epoch": 1})
        save_checkpoint(path, {"epoch": 2})
        assert load_checkpoint(path) == {"epoch": 2}
        path.write_bytes(read_whole(path)[:-1] + b"?")
        with pytest.raises(CheckpointError, match="disagree"):
            load_checkpoint(path)
        remove_checkpoint(path)
        assert load_checkpoint(path) is None


class TestVerify:
    def test_smoke(self, whole: Workspace) -> None:
        assert verify_workspace(whole) == (len(objects(whole)), [])

    def test_a_flipped_bit_in_any_object_is_found(self, whole: Workspace) -> None:
        for name, before in objects(whole).items():
            path = whole.root / name
            middle = len(before) // 2
            path.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
            assert path in [damage.path for damage in verify_workspace(whole)[1]], path
            path.write_bytes(before)
        assert verify_workspace(whole)[1] == []

    def test_no_record(self, whole: Workspace) -> None:
        with pytest.raises(CommitError, match="expected a whole commit record"):
            whole.stage("mask", "b" * 12).log.read("00009")

    def test_without_its_metadata_a_folder_goes_as_a_whole(self, whole: Workspace) -> None:
        masks = whole.stage("mask", "b" * 12).folder
        (masks / "label.zarr/zarr.json").write_bytes(b"{}")
        assert repair(verify_workspace(whole)[1]) == 1
        assert not masks.exists()


class TestHold:
    def test_refuses_a_second_run(self, remote: Path) -> None:
        workspace = Workspace(remote)
        with workspace.hold() as swept:
            assert swept == []
            with pytest.raises(WorkspaceHeldError, match=r"is held by pid .*; wait for it or stop it"):
                workspace.hold().__enter__()
            assert "pid " in str(workspace.owner())
        assert workspace.owner() is None

    def test_a_failure_is_told(self, workspace: Workspace) -> None:
        with workspace.hold():
            workspace.forget_failure()
            workspace.write_failure("mask, shard 3", ValueError("odd"))
        told = workspace.read_failure()
        assert told is not None
        assert (told["unit"], told["message"]) == ("mask, shard 3", "odd")
        workspace.forget_failure()
        assert workspace.read_failure() is None


class TestPrune:
    def test_smoke(self, whole: Workspace) -> None:
        masks = whole.stage("mask", "b" * 12).folder
        others = [whole.stage("stage", "a" * 12).folder, whole.model("classifier", "k"), whole.report("r")]
        remember(whole, "report", others)
        remember(whole, "report", others)
        assert len(past_runs(whole)) == 1
        pruning = plan_pruning(whole, 1)
        assert pruning.folders == [masks]
        assert freed_bytes([masks]) == sum(len(data) for name, data in objects(whole).items() if masks.name in name)
        prune(whole, pruning)
        assert not masks.exists()
        assert verify_workspace(whole)[1] == []
