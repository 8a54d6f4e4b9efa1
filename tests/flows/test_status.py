"""What a workspace tells about a run that goes on, failed, was killed or has ended."""

import os
import signal
from pathlib import Path

import pytest

from flows.failures import by_signal, failed_unit, told
from flows.status import status_lines
from storage.index import read_index
from storage.workspace import Workspace
from tasks.context import unit
from tests.flows.conftest import Reference, poll
from tests.flows.contents import records
from tests.flows.launcher import Launcher
from tests.flows.works import CountWork, new_folder


def status(maskmill: Launcher, workspace: Path) -> str:
    done = maskmill.run("status", workspace)
    assert done.status == 0, done.err
    return done.out


def first_image(workspace: Path, root: Path) -> Path:
    return root / read_index(workspace / "images.parquet").paths[0]


def ask_a_server_that_is_gone() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise ConnectionError("no server")  # noqa: B904


class TestStatus:
    def test_a_run_that_goes_on(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        running = maskmill.start("run", reference.config, "-w", workspace)
        poll(lambda: len(records(workspace)) >= 9)
        os.kill(running.pid, signal.SIGSTOP)
        lines = "\n".join(status_lines(Workspace(workspace)))
        os.kill(running.pid, signal.SIGCONT)
        running.kill()
        running.wait()
        assert f"held by    pid {running.pid} " in lines
        assert "shards  running, " in lines
        after = status(maskmill, workspace)
        assert "held by    nobody" in after
        assert "shards  unfinished, " in after

    def test_a_failed_shard_is_named_until_a_run_ends_well(
        self, maskmill: Launcher, reference: Reference, workspace: Path, own_data: Path
    ) -> None:
        # An image that changes under a run: staged as one, gone when its maps are to be made.
        other = ("--set", f"dataset.root={own_data}", "--set", "proposals.1.truncation=40")
        assert maskmill.run("stage", reference.config, "-w", workspace, *other).status == 0
        image = first_image(workspace, own_data)
        data, times = image.read_bytes(), image.stat()
        image.write_bytes(bytes(len(data)))
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
        failed = maskmill.run("run", reference.config, "-w", workspace, *other)
        assert failed.status == 1
        assert "failed     " in status(maskmill, workspace)
        assert ": propose, shard " in status(maskmill, workspace)
        image.write_bytes(data)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert maskmill.run("run", reference.config, "-w", workspace, *other).status == 0
        assert "\nfailed " not in status(maskmill, workspace)

    def test_quarantine(self, maskmill: Launcher, reference: Reference, workspace: Path, own_data: Path) -> None:
        image = first_image(workspace, own_data)
        image.write_bytes(b"no image")
        other = ("--set", f"dataset.root={own_data}")
        assert maskmill.run("stage", reference.config, "-w", workspace, *other).status == 0
        out = status(maskmill, workspace)
        assert "24, 1 quarantined" in out
        assert str(image.relative_to(own_data)) in out


class TestFailures:
    def test_the_unit_is_found(self, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 4), wrong=[3])
        with pytest.raises(ValueError, match="shard 3 is wrong") as caught:
            unit.fn(work, 3, "propose")
        assert failed_unit(caught.value) == "propose, shard 3"
        assert failed_unit(ValueError()) == ""

    def test_told(self, tmp_path: Path) -> None:
        workspace = Workspace(tmp_path)
        with pytest.raises(ValueError, match="damaged"), told(workspace):
            raise ValueError("damaged")
        failure = workspace.read_failure()
        assert failure is not None
        assert (failure["unit"], failure["error"], failure["message"]) == ("", "ValueError", "damaged")
        with told(workspace):
            assert workspace.read_failure() is None

    def test_what_a_signal_leads_to_is_no_failure(self, tmp_path: Path) -> None:
        workspace = Workspace(tmp_path)
        with pytest.raises(ConnectionError) as caught, told(workspace):
            ask_a_server_that_is_gone()
        assert by_signal(caught.value)
        assert not by_signal(ConnectionError("no server"))
        assert workspace.read_failure() is None
