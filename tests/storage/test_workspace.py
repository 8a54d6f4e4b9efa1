import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.checkpoints import CHECKPOINT
from storage.commits import CommitLog
from storage.files import write_bytes_atomic
from storage.models import UNIT
from storage.workspace import Workspace, WorkspaceError, WorkspaceHeldError

PROJECT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from storage.workspace import Workspace, WorkspaceHeldError

try:
    with Workspace(Path(sys.argv[1])).hold():
        print("held", flush=True)
        sys.stdin.read()
except WorkspaceHeldError as error:
    print(error, flush=True)
"""


@contextmanager
def holder(workspace: Workspace) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that tries to hold the workspace, and the line it says."""
    command = [sys.executable, "-c", HOLD, str(workspace.root)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


class TestPaths:
    def test_creating_the_object_touches_nothing(self, workspace: Workspace) -> None:
        assert workspace.stages() == []
        assert workspace.owner() is None
        assert not workspace.root.exists()

    def test_relative_roots_stay_where_they_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        workspace = Workspace(Path("ws"))
        monkeypatch.chdir("/")
        assert workspace.index_path == tmp_path / "ws" / "images.parquet"

    def test_folders(self, workspace: Workspace) -> None:
        assert workspace.stage("mask", "k").folder == workspace.root / "stages/mask-k"
        assert workspace.model("classifier", "k") == workspace.root / "models/classifier-k"
        assert workspace.report("k") == workspace.root / "reports/k"

    def test_stages_have_a_manifest(self, workspace: Workspace) -> None:
        for name in ("b", "a"):
            workspace.stage("mask", name).begin({}, shards=1)
        (workspace.root / "stages" / "mask-begun").mkdir()
        assert [stage.name for stage in workspace.stages()] == ["mask-a", "mask-b"]


class TestRun:
    def test_round_trip(self, workspace: Workspace) -> None:
        workspace.write_run({"stages": {"truth": "truth-1"}, "labels": ["mask-1"]})
        run = workspace.read_run()
        assert run["stages"] == {"truth": "truth-1"}
        assert run["host"]

    def test_refuses_what_is_no_workspace(self, workspace: Workspace) -> None:
        with pytest.raises(WorkspaceError, match=r"run\.json: expected the record of a run.*is this a workspace"):
            workspace.read_run()

    def test_refuses_a_changed_record(self, workspace: Workspace) -> None:
        workspace.write_run({"labels": ["mask-1"]})
        path = workspace.root / "run.json"
        path.write_bytes(path.read_bytes().replace(b"mask-1", b"mask-2"))
        with pytest.raises(WorkspaceError, match="digest disagree"):
            workspace.read_run()


def check_checkpoints(workspace: Workspace) -> None:
    """A training may be killed after its record and before it removes its checkpoint."""
    whole, half = (workspace.root / "models" / f"unet-{name * 12}" / CHECKPOINT for name in "ab")
    for path in (whole, half):
        write_bytes_atomic(path, b"state")
    CommitLog(whole.parent).commit(UNIT, [], facts={}, began=0.0)
    with workspace.hold() as swept:
        assert swept == [whole]
    assert not whole.exists()
    assert half.exists()


class TestHold:
    def test_smoke(self, workspace: Workspace) -> None:
        with workspace.hold() as swept:
            assert swept == []
            assert f"pid {os.getpid()} on " in str(workspace.owner())
        assert workspace.owner() is None
        with workspace.hold():
            pass

    def test_sweeps_what_a_killed_writer_left(self, workspace: Workspace) -> None:
        workspace.root.mkdir()
        stray = workspace.root / ".run.json.0123.tmp"
        stray.write_text("half")
        with workspace.hold() as swept:
            assert swept == [stray]
        assert not stray.exists()

    def test_sweeps_checkpoints_of_whole_models(self, workspace: Workspace) -> None:
        check_checkpoints(workspace)

    def test_sweeps_checkpoints_in_a_store(self, remote: Path) -> None:
        check_checkpoints(Workspace(remote))

    def test_a_block_that_fails_lets_go(self, workspace: Workspace) -> None:
        with pytest.raises(ZeroDivisionError), workspace.hold():
            1 / 0  # noqa: B018
        assert workspace.owner() is None
        with workspace.hold():
            pass

    def test_refuses_twice_in_one_process(self, workspace: Workspace) -> None:
        with workspace.hold():
            with pytest.raises(WorkspaceHeldError, match=f"is held by pid {os.getpid()} on "), workspace.hold():
                pass
            assert f"pid {os.getpid()} on " in str(workspace.owner())

    def test_refuses_a_second_process_and_names_the_owner(self, workspace: Workspace) -> None:
        with workspace.hold():
            for _ in range(2):  # a refused one must not wipe the name
                with holder(workspace) as (_, said):
                    assert f"{workspace.root} is held by pid {os.getpid()} on " in said
                    assert said.endswith("wait for it or stop it")

    def test_a_killed_owner_lets_go(self, workspace: Workspace) -> None:
        with holder(workspace) as (process, said):
            assert said == "held"
            assert f"pid {process.pid} on " in str(workspace.owner())
            with pytest.raises(WorkspaceHeldError, match=f"pid {process.pid} on "), workspace.hold():
                pass
            process.kill()
            process.wait()
            assert workspace.owner() is None
            with workspace.hold():
                assert f"pid {os.getpid()} on " in str(workspace.owner())

    def test_a_killed_owner_whose_number_is_taken_again(self, workspace: Workspace) -> None:
        """The lock names a process that lives: the kernel knows better than the name."""
        with holder(workspace) as (process, _):
            process.kill()
            process.wait()
            lock = workspace.root / "lock"
            lock.write_text(lock.read_text().replace(str(process.pid), str(os.getppid())))
            assert workspace.owner() is None
            with workspace.hold():
                assert f"pid {os.getpid()} on " in str(workspace.owner())

    def test_an_owner_without_a_name(self, workspace: Workspace) -> None:
        with workspace.hold():
            (workspace.root / "lock").write_text("")
            assert workspace.owner() == "an owner that has not written its name yet"
