"""A process killed at any moment loses at most the shards in flight, and the result is that of an undisturbed run."""

import random
import signal
from pathlib import Path

import pytest

from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import Reference
from tests.flows.contents import contents, records, uncommitted
from tests.flows.launcher import Launcher

# Records in the order of a run: staged shard, index, 4 truth, model, 8 propose, 8 mask, 4 floors, 8 evaluate, metrics,
# page. A number counts how often the point was passed.
BOUNDARIES = [
    "stage:1",
    "infer:1",
    "infer:20",
    "array:3",
    "facts:17",
    "commit:2",
    "commit:7",
    "commit:21",
    "commit:37",
    "epoch:1",
    "metrics:1",
    "report:1",
]
IN_FLIGHT = 2


def finish(maskmill: Launcher, reference: Reference, workspace: Path) -> None:
    """Resume a killed run and compare it with the undisturbed one."""
    before, lost = records(workspace), uncommitted(workspace)
    assert len(lost) <= IN_FLIGHT, f"work in flight at the kill: {lost}"
    done = maskmill.run("run", reference.config, "-w", workspace)
    assert done.status == 0, done.err
    after = records(workspace)
    assert {name: after[name] for name in before} == before, "a committed unit was done again"
    assert after.keys() == records(reference.workspace).keys()
    assert contents(workspace) == contents(reference.workspace)
    assert verify_workspace(Workspace(workspace))[1] == []


@pytest.mark.slow
class TestKill:
    @pytest.mark.parametrize("point", BOUNDARIES)
    def test_at_a_boundary(self, maskmill: Launcher, reference: Reference, tmp_path: Path, point: str) -> None:
        workspace = tmp_path / "workspace"
        died = maskmill.run("run", reference.config, "-w", workspace, MASKMILL_DIE_AT=point)
        assert died.status == -signal.SIGKILL, died.err
        finish(maskmill, reference, workspace)

    @pytest.mark.parametrize("moment", range(10))
    def test_at_a_random_moment(self, maskmill: Launcher, reference: Reference, tmp_path: Path, moment: int) -> None:
        # One moment in each tenth of a run's time.
        delay = (moment + random.Random(moment).random()) / 10 * reference.seconds
        for attempt in range(5):
            workspace = tmp_path / str(attempt)
            running = maskmill.start("run", reference.config, "-w", workspace)
            running.wait(delay)
            running.kill()
            if running.wait() == -signal.SIGKILL:
                break
            delay *= 0.8
        assert running.status == -signal.SIGKILL
        finish(maskmill, reference, workspace)

    def test_again_and_again(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        deaths, workspace = 0, tmp_path / "workspace"
        # Every run gets eight records further.
        while maskmill.run("run", reference.config, "-w", workspace, MASKMILL_DIE_AT="commit:9").status != 0:
            deaths += 1
            assert deaths <= len(records(reference.workspace))
        assert deaths >= 4
        finish(maskmill, reference, workspace)
