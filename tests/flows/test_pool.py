"""Work that holds Python's lock goes to processes of this machine, and comes to the same as in threads."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from storage.index import read_index
from storage.labels import open_labels
from storage.stages import StageFolder
from storage.workspace import Workspace
from tests.flows.conftest import Reference, poll, settings
from tests.flows.contents import records, results
from tests.flows.launcher import Launcher, Running
from tests.flows.test_cluster import spawned
from tests.flows.test_stop import LIMIT, stop

AT_ONCE = ("--set", "runtime.spawn_after=0")
WORKERS = 2


def refined(workspace: Path) -> list[Path]:
    """Commit records of label sets."""
    return list(workspace.glob("stages/mask-*/commits/[!.]*.json"))


@pytest.fixture
def slow_refinement(
    maskmill: Launcher, data: Path, write_config: Callable[..., Path], tmp_path: Path
) -> Callable[[], Running]:
    """Start a refinement that takes long enough to be disturbed; everything before it is done."""
    refine = [{"step": "pamr", "iterations": 300}, {"step": "otsu"}]
    config = write_config(data, proposals=settings(data)["proposals"][:1], refine=refine)
    assert maskmill.run("propose", config, "-w", tmp_path / "workspace").status == 0

    def start() -> Running:
        return maskmill.start("refine", config, "-w", tmp_path / "workspace", *AT_ONCE)

    return start


@pytest.mark.slow
class TestProcesses:
    def test_the_same_bytes(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        done = maskmill.run("run", reference.config, "-w", workspace, *AT_ONCE)
        assert done.status == 0, done.err
        assert results(workspace) == results(reference.workspace)
        assert records(workspace).keys() == records(reference.workspace).keys()

    def test_a_deadly_image(
        self, maskmill: Launcher, reference: Reference, data: Path, write_config: Callable[..., Path], tmp_path: Path
    ) -> None:
        index = read_index(reference.workspace / "images.parquet")
        # In the last shard: the first two tell, in threads, how long a shard takes.
        deadly, workspace = len(index.ids) - 2, tmp_path / "workspace"
        config = write_config(
            data, proposals=settings(data)["proposals"][:1], refine=[{"step": "pamr"}, {"step": "otsu"}]
        )
        assert maskmill.run("propose", config, "-w", workspace).status == 0
        done = maskmill.run("refine", config, "-w", workspace, *AT_ONCE, MASKMILL_DIE_ON=index.ids[deadly])
        assert done.status == 0, done.err
        assert "left out 1 images that kill" in done.err
        for record in refined(workspace):
            store = open_labels(Workspace(workspace), StageFolder(record.parents[1]))
            assert (store.mask(deadly) == 255).all()

    def test_kill(self, slow_refinement: Callable[[], Running], tmp_path: Path) -> None:
        running = slow_refinement()
        workers = poll(lambda: len(found := spawned(running.pid)) == WORKERS and found, 120)
        running.kill()
        assert running.wait() == -signal.SIGKILL
        assert psutil.wait_procs(workers, timeout=60)[1] == []
        before = records(tmp_path / "workspace")
        again = slow_refinement()
        assert again.wait() == 0, again.err
        after = records(tmp_path / "workspace")
        assert {name: after[name] for name in before} == before

    def test_stop(self, slow_refinement: Callable[[], Running]) -> None:
        running = slow_refinement()
        workers = poll(lambda: len(found := spawned(running.pid)) == WORKERS and found, 120)
        assert stop(running) < LIMIT
        assert psutil.wait_procs(workers, timeout=60)[1] == []


def test_short_work_stays_here(maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    running = maskmill.start("refine", reference.config, "-w", workspace)
    seen = 0
    while running.wait(0) is None:
        seen = max(seen, len(spawned(running.pid)))
        time.sleep(0.05)
    assert running.status == 0, running.err
    assert seen == 0
    assert refined(workspace)
