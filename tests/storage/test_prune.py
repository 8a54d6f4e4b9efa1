import os
from pathlib import Path

import pytest

from storage.history import past_runs, remember
from storage.prune import freed_bytes, plan_pruning, prune
from storage.workspace import Workspace, WorkspaceError


def make(workspace: Workspace, *names: str) -> list[Path]:
    """Folders with a file of one kilobyte each."""
    folders = [workspace.root / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_bytes(bytes(1000))
    return folders


def run(workspace: Workspace, *names: str, last: str = "report") -> None:
    """A run that made or used some folders."""
    missing = [name for name in names if not (workspace.root / name).exists()]
    make(workspace, *missing)
    past = remember(workspace, last, [workspace.root / name for name in names])
    # Times as they are, but never the same: file systems may be coarser than a test is fast.
    touch(past.path, 1_000_000)


def touch(path: Path, later: int) -> None:
    """Put the time of a file or folder off by some nanoseconds."""
    now = path.stat().st_mtime_ns + later
    os.utime(path, ns=(now, now))


def names(workspace: Workspace, folders: list[Path]) -> list[str]:
    return [str(folder.relative_to(workspace.root)) for folder in folders]


@pytest.fixture
def three(workspace: Workspace) -> Workspace:
    """Three runs; the second shares a stage with the first, the third one with the second."""
    run(workspace, "stages/stage-1", "stages/mask-1", "reports/1")
    run(workspace, "stages/stage-1", "stages/mask-2", "models/classifier-2", "reports/2")
    run(workspace, "stages/stage-3", "models/classifier-2", "reports/3")
    return workspace


class TestPlanPruning:
    @pytest.mark.parametrize(
        ("keep", "goes"),
        [
            (1, ["reports/1", "reports/2", "stages/mask-1", "stages/mask-2", "stages/stage-1"]),
            (2, ["reports/1", "stages/mask-1"]),
            (3, []),
            (9, []),
        ],
    )
    def test_smoke(self, three: Workspace, keep: int, goes: list[str]) -> None:
        pruning = plan_pruning(three, keep)
        assert names(three, pruning.folders) == goes
        assert len(pruning.kept) == min(keep, 3)
        assert pruning.unfinished == []

    def test_a_step_alone_does_not_take_the_place_of_a_run(self, three: Workspace) -> None:
        run(three, "stages/stage-4", last="stage")
        pruning = plan_pruning(three, 1)
        assert [past.last for past in pruning.kept] == ["stage", "report"]
        assert "stages/stage-3" not in names(three, pruning.folders)

    def test_what_a_killed_run_left_stays(self, three: Workspace) -> None:
        (folder,) = make(three, "stages/propose-4")
        touch(folder, 5_000_000)
        assert plan_pruning(three, 1).unfinished == [folder]
        run(three, "stages/stage-5")
        touch(plan_pruning(three, 1).kept[0].path, 5_000_000)
        assert folder in plan_pruning(three, 1).folders

    def test_refuses_a_workspace_without_history(self, workspace: Workspace) -> None:
        make(workspace, "stages/mask-1")
        with pytest.raises(WorkspaceError, match="run it once"):
            plan_pruning(workspace, 1)

    def test_refuses_to_keep_nothing(self, three: Workspace) -> None:
        with pytest.raises(ValueError, match="saw 0"):
            plan_pruning(three, 0)


class TestPrune:
    def test_smoke(self, three: Workspace) -> None:
        pruning = plan_pruning(three, 1)
        prune(three, pruning)
        assert not any(folder.exists() for folder in pruning.folders)
        assert past_runs(three) == pruning.kept
        assert all((three.root / name).is_dir() for name in pruning.kept[0].uses)
        assert not (three.root / ".pruned").exists()
        again = plan_pruning(three, 1)
        assert (again.folders, again.dropped) == ([], [])

    @pytest.mark.parametrize("moved", range(6))
    def test_a_kill_in_between_is_made_good(
        self, three: Workspace, monkeypatch: pytest.MonkeyPatch, moved: int
    ) -> None:
        pruning = plan_pruning(three, 1)
        left = [moved]
        replace = Path.replace

        def dies(self: Path, target: Path) -> Path:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dies)
            if moved < len(pruning.folders):
                with pytest.raises(KeyboardInterrupt):
                    prune(three, pruning)
            else:
                prune(three, pruning)
        prune(three, plan_pruning(three, 1))
        assert sorted(names(three, [*three.root.glob("*/*")])) == sorted(
            [*pruning.kept[0].uses, str(pruning.kept[0].path.relative_to(three.root))]
        )


class TestFreedBytes:
    def test_smoke(self, workspace: Workspace) -> None:
        assert freed_bytes(make(workspace, "stages/mask-1", "stages/mask-2")) == 2000

    def test_what_another_folder_shares_is_not_freed(self, workspace: Workspace) -> None:
        first, second = make(workspace, "stages/mask-1", "stages/mask-2")
        os.link(first / "manifest.json", second / "shared")
        assert freed_bytes([first]) == 0
        assert freed_bytes([first, second]) == 2000
