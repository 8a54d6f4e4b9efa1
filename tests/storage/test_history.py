import pytest

from storage.history import FOLDER, past_runs, remember
from storage.verify import verify_workspace
from storage.workspace import Workspace, WorkspaceError


class TestRemember:
    def test_smoke(self, workspace: Workspace) -> None:
        past = remember(workspace, "report", [workspace.report("2"), workspace.root / "stages/mask-1"], {"images": 3})
        assert past.uses == ("reports/2", "stages/mask-1")
        assert past.facts == {"images": 3}
        assert past_runs(workspace) == [past]

    def test_the_latest_comes_first(self, workspace: Workspace) -> None:
        runs = [remember(workspace, "report", [workspace.report(str(number))]) for number in range(4)]
        assert past_runs(workspace) == runs[::-1]

    def test_a_run_that_used_the_same_replaces_its_record(self, workspace: Workspace) -> None:
        first = remember(workspace, "report", [workspace.report("1")])
        other = remember(workspace, "report", [workspace.report("2")])
        again = remember(workspace, "report", [workspace.report("1")])
        assert past_runs(workspace) == [again, other]
        assert not first.path.exists()

    def test_another_last_step_is_another_run(self, workspace: Workspace) -> None:
        remember(workspace, "report", [workspace.report("1")])
        remember(workspace, "stage", [workspace.report("1")])
        assert len(past_runs(workspace)) == 2


class TestPastRuns:
    def test_none(self, workspace: Workspace) -> None:
        assert past_runs(workspace) == []

    def test_refuses_a_damaged_record(self, workspace: Workspace) -> None:
        path = remember(workspace, "report", [workspace.report("1")]).path
        path.write_bytes(path.read_bytes().replace(b"reports/1", b"reports/2"))
        with pytest.raises(WorkspaceError, match="its content and its digest disagree; delete it"):
            past_runs(workspace)
        assert [damage.path for damage in verify_workspace(workspace)[1]] == [path]

    def test_temporaries_are_no_records(self, workspace: Workspace) -> None:
        remember(workspace, "report", [])
        (workspace.root / FOLDER / ".20260101T000000.000000Z-0.json.01.tmp").write_bytes(b"half")
        assert len(past_runs(workspace)) == 1
