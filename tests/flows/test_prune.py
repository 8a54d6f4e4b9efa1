"""Giving space back: what the last runs used stays whole and answers without work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import Reference
from tests.flows.contents import contents, records
from tests.flows.launcher import PROJECT, Launcher

HOLD = """
import sys
from pathlib import Path
from storage.workspace import Workspace
with Workspace(Path(sys.argv[1])).hold():
    print("held", flush=True)
    sys.stdin.read()
"""


def folders(workspace: Path) -> set[str]:
    return {
        str(path.relative_to(workspace))
        for room in ("stages", "models", "reports")
        for path in workspace.glob(f"{room}/*")
    }


class TestPrune:
    def test_only_the_last_run_stays(self, maskmill: Launcher, reference: Reference, workspace: Path) -> None:
        first, whole = folders(workspace), contents(workspace)
        other = ("--set", "proposals.1.truncation=40")
        assert maskmill.run("run", reference.config, "-w", workspace, *other).status == 0
        both = folders(workspace)
        dry = maskmill.run("prune", workspace, "--keep", 1, "--dry-run")
        assert dry.status == 0, dry.err
        assert folders(workspace) == both
        done = maskmill.run("prune", workspace, "--keep", 1)
        assert done.status == 0, done.err
        left = folders(workspace)
        assert left < both
        assert {f"removes  {name}" for name in both - left} <= set(done.out.splitlines())
        assert not first <= left
        assert done.out.splitlines()[-1].endswith("bytes freed")
        before = records(workspace)
        again = maskmill.run("run", reference.config, "-w", workspace, *other)
        assert (again.status, records(workspace)) == (0, before), again.err
        assert verify_workspace(Workspace(workspace))[1] == []
        # What was removed is made again as it was.
        assert maskmill.run("run", reference.config, "-w", workspace).status == 0
        made = contents(workspace)
        assert {name: made[name] for name in whole} == whole

    def test_two_runs_stay(self, maskmill: Launcher, reference: Reference, workspace: Path) -> None:
        assert maskmill.run("run", reference.config, "-w", workspace, "--set", "evaluate.curve=false").status == 0
        before = folders(workspace)
        done = maskmill.run("prune", workspace, "--keep", 2)
        assert done.status == 0, done.err
        assert folders(workspace) == before
        assert "0 folders, 0 bytes freed" in done.out

    def test_a_killed_run_goes_on(self, maskmill: Launcher, reference: Reference, workspace: Path) -> None:
        other = ("--set", "proposals.1.truncation=40")
        died = maskmill.run("run", reference.config, "-w", workspace, *other, MASKMILL_DIE_AT="commit:6")
        assert died.status is not None
        assert died.status < 0
        before = records(workspace)
        done = maskmill.run("prune", workspace, "--keep", 1)
        assert "of a run that has not ended" in done.out
        assert records(workspace) == before

    def test_a_held_workspace_is_left_alone(self, maskmill: Launcher, workspace: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-c", HOLD, str(workspace)]
        before = folders(workspace)
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"held\n"
            done = maskmill.run("prune", workspace, "--keep", 1)
            owner.communicate()
        assert done.status == 3
        assert f"held by pid {owner.pid} " in done.err
        assert folders(workspace) == before

    @pytest.mark.parametrize(
        ("folder", "keep", "told"), [("nowhere", 1, "nowhere"), ("", 1, "run it once"), ("", 0, "saw 0")]
    )
    def test_refusals(self, maskmill: Launcher, tmp_path: Path, folder: str, keep: int, told: str) -> None:
        done = maskmill.run("prune", tmp_path / folder, "--keep", keep)
        assert done.status == 2
        assert told in done.err
