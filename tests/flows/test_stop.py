"""SIGTERM ends a run within ten seconds, with status 1 and one line; what is committed stays."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.stop import GRACE, STOPPED
from storage.checkpoints import load_checkpoint
from tests.flows.conftest import PREFECT, Reference, poll
from tests.flows.contents import contents, records
from tests.flows.launcher import PROJECT, Launcher, Running

LIMIT = 10.0
DEAF = """
import sys, time
import flows.stop
flows.stop.GRACE = 0.3
said = False
with flows.stop.stoppable():
    while True:
        try:
            if not said:
                said = True
                print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("asked", flush=True)
"""
LATE = """
import os, signal
import flows.stop
flows.stop.GRACE = 0.3
before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
with flows.stop.stoppable() as stop:
    pass
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is before
os.kill(os.getpid(), signal.SIGTERM)
"""


def python(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """Start a fresh interpreter in a session of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**kept, **PREFECT, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Leave nothing of a session behind, whatever happened in the block."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def alive(group: int) -> bool:
    """Whether anybody of a session still runs; who has ended and was not yet collected does not."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(path.read_text().rpartition(")")[2].split())
    return any(int(fields[2]) == group and fields[0] != "Z" for fields in stats)


def stop(running: Running) -> float:
    """Send SIGTERM; the seconds until the end."""
    began = time.monotonic()
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait() == 1, running.err
    return time.monotonic() - began


class TestStop:
    def test_a_process_that_does_not_listen(self) -> None:
        process = python("-c", DEAF)
        with ended(process):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 1
        assert (out, err) == ("asked\n", STOPPED + "\n")

    def test_handlers_are_put_back(self) -> None:
        process = python("-c", LATE)
        with ended(process):
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == -signal.SIGTERM, err

    def test_the_grace_leaves_time(self) -> None:
        assert GRACE < LIMIT - 2

    @pytest.mark.parametrize("committed", [7, 20])
    def test_between_shards(self, maskmill: Launcher, reference: Reference, tmp_path: Path, committed: int) -> None:
        workspace = tmp_path / "workspace"
        running = maskmill.start("run", reference.config, "-w", workspace)
        poll(lambda: len(records(workspace)) >= committed)
        assert stop(running) < LIMIT
        assert running.err.splitlines()[-1] == STOPPED
        before = records(workspace)
        assert maskmill.run("run", reference.config, "-w", workspace).status == 0
        after = records(workspace)
        assert {name: after[name] for name in before} == before
        assert contents(workspace) == contents(reference.workspace)

    def test_during_training(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        more = ("--set", "classifier.train.epochs=200")
        running = maskmill.start("classify", reference.config, "-w", workspace, *more)
        (checkpoint,) = poll(lambda: list(workspace.glob("models/*/checkpoint.pt")))
        assert stop(running) < LIMIT
        assert running.err.splitlines()[-1] == STOPPED
        assert load_checkpoint(checkpoint) is not None
        assert "in training" in maskmill.run("status", workspace).out


@pytest.mark.slow
class TestEmbedded:
    """With the server that Prefect starts for one run, in fresh interpreters."""

    def test_the_whole_group(self, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        arguments = ("-m", "flows.cli", "run", reference.config, "-w", workspace)
        process = python(*arguments, PREFECT_HOME=str(tmp_path / "prefect"))
        with ended(process):
            poll(lambda: len(records(workspace)) >= 7, 120)
            began = time.monotonic()
            os.killpg(process.pid, signal.SIGTERM)
            _, err = process.communicate(timeout=2 * LIMIT)
            seconds = time.monotonic() - began
            poll(lambda: not alive(process.pid))
        assert process.returncode == 1, err
        assert seconds < LIMIT
        assert err.splitlines()[-1] == STOPPED
        assert "Error" not in err

    def test_a_background_job(self, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        command = f"trap '' INT; exec {sys.executable} -m flows.cli run {reference.config} -w {workspace}"
        process = python("-c", f"import os; os.execv('/bin/sh', ['sh', '-c', {command!r}])", PREFECT_HOME=str(tmp_path))
        with ended(process):
            poll(lambda: len(records(workspace)) >= 1, 120)
            process.send_signal(signal.SIGINT)
            poll(lambda: len(records(workspace)) >= 7, 120)
            began = time.monotonic()
            process.terminate()
            _, err = process.communicate(timeout=2 * LIMIT)
            assert time.monotonic() - began < LIMIT
            poll(lambda: not alive(process.pid))
        assert process.returncode == 1, err
        assert err.splitlines()[-1] == STOPPED
