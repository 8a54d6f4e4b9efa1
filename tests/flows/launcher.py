"""Real processes for the end-to-end tests: the command line, without paying for its imports each time.

Run as a script it imports what the commands need, then forks one process per request. Each is a process of its own: it
has its own exit status and takes a SIGKILL as one that a shell started.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


class Running:
    """A command that was started.

    Parameters
    ----------
    launcher
        Who started it.
    pid
        Its process.
    out, err
        Files that take its output.
    """

    def __init__(self, launcher: "Launcher", pid: int, out: Path, err: Path) -> None:
        self.launcher, self.pid, self._out, self._err = launcher, pid, out, err
        self.status: int | None = None

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        if self.wait(0) is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int | None:
        """Its exit status (negative: the signal that killed it), None if it has not ended in time."""
        if self.status is None:
            line = self.launcher.line(timeout)
            self.status = None if line is None else int(line)
        return self.status

    @property
    def out(self) -> str:
        """What it wrote to standard output so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it wrote to standard error so far."""
        return self._err.read_text()


class Launcher:
    """Starts commands, one at a time."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **environment, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self.line(120) == "ready"

    def start(self, *arguments: object, **environment: str) -> Running:
        """Start ``maskmill`` with these arguments and additions to the environment."""
        self.count += 1
        out, err = (self.folder / f"{self.count}.{name}" for name in ("out", "err"))
        request = {"arguments": [str(one) for one in arguments], "environment": environment, "out": str(out)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**request, "err": str(err)}).encode() + b"\n")
        return Running(self, int(self.line(60) or -1), out, err)

    def run(self, *arguments: object, **environment: str) -> Running:
        """Run a command to its end."""
        running = self.start(*arguments, **environment)
        if running.wait() is None:
            running.kill()
            raise TimeoutError(f"{arguments}: not finished in time; so far:\n{running.err}")
        return running

    def line(self, timeout: float) -> str | None:
        """One line of the launcher, None if there is none in time."""
        pipe = self._process.stdout
        assert pipe is not None
        until = time.monotonic() + timeout
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            return None
        return pipe.readline().decode().strip()

    def close(self) -> None:
        """End the launcher."""
        self._process.communicate()


def serve() -> dict[str, Any] | None:
    """Fork a process per request line; returns the request in the forked ones and None when the requests end."""
    print("ready", flush=True)
    for line in sys.stdin:
        if not (pid := os.fork()):
            return dict(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def preload() -> None:
    """Import what commands import."""
    from flows.commands import quiet_prefect

    quiet_prefect()
    import matplotlib.pyplot
    import pandas
    import timm
    import torch

    import flows.inspect
    import flows.plan
    import flows.run  # noqa: F401

    assert all((matplotlib, pandas, timm, torch))


def obey(request: dict[str, Any]) -> None:
    """Be the command that was asked for."""
    from flows.cli import main

    for number, name in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.update(request["environment"])
    try:
        main(request["arguments"])
    except SystemExit as left:
        sys.stdout.flush()
        sys.stderr.flush()
        # Taking down an interpreter with torch in it lasts 2 s; the tests that start a fresh one see it.
        os._exit(left.code if isinstance(left.code, int) else 1)


if __name__ == "__main__":
    preload()
    if request := serve():
        obey(request)
