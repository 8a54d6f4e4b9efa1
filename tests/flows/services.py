"""Real Prefect servers, workers and deployments for tests: started, asked, killed and never left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.server import free_port
from tests.flows.conftest import PREFECT, answers, poll
from tests.flows.launcher import PROJECT

FAST = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
}
BUSY = 503
# As a shell starts a background job, which ignores Ctrl-C: it must end on SIGTERM all the same.
BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")


class Service:
    """A command of ours in a session of its own."""

    def __init__(self, folder: Path, name: str, *arguments: object, **environment: str) -> None:
        self.log = folder / f"{name}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        surroundings = {**kept, **PREFECT, **FAST, "PYTHONPATH": str(PROJECT), **environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*BACKGROUND, sys.executable, "-m", "flows.cli", *map(str, arguments)],
                cwd=folder,
                env=surroundings,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to the process alone: what it started goes on."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the whole session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def text(self) -> str:
        """What it said so far."""
        return self.log.read_text()


class Site:
    """A folder with a server's database; server and workers come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self._services = folder, free_port(), list[Service]()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": self.url}

    def start(self, name: str, *arguments: object, **environment: str) -> Service:
        """Start one of our commands."""
        service = Service(self.folder, name, *arguments, **{**self.environment, **environment})
        self._services.append(service)
        return service

    def python(self, *arguments: object) -> str:
        """What Python says, with the server at hand."""
        surroundings = {**os.environ, **PREFECT, **self.environment, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=surroundings, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def server(self) -> Service:
        """Start the server and wait until it answers."""
        server = self.start("server", "server", "--port", self.port)
        poll(lambda: answers(self.url) or server.process.poll() is not None, 300)
        assert server.process.poll() is None, server.text()
        return server

    def worker(self, **environment: str) -> Service:
        """Start a worker."""
        return self.start("worker", "worker", **environment)

    def deploy(self, config: Path, workspace: Path, *options: object) -> str:
        """Deploy; returns what the command said."""
        service = self.start("deploy", "deploy", config, "-w", workspace, *options)
        assert service.process.wait(300) == 0, service.text()
        return service.text()

    def ask(self, path: str, question: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """Ask the server, by POST where there is a question; again and again while its database is busy."""
        data = None if question is None else json.dumps(question).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        return json.loads(poll(lambda: _answer(request)))

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment of the flow."""
        return dict(self.ask(f"deployments/name/maskmill/{name}"))

    def now(self, name: str) -> str:
        """Have a run started at once; its id."""
        known = self.deployment(name)["id"]
        return str(self.ask(f"deployments/{known}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"])

    def state(self, run: str) -> str:
        """Name of a run's state."""
        return str(self.ask(f"flow_runs/{run}")["state_name"])

    def runs(self, *states: str) -> list[dict[str, Any]]:
        """Runs of deployments in some states, the first to start first."""
        wanted = {"state": {"name": {"any_": list(states)}}, "deployment_id": {"is_null_": False}}
        return list(self.ask("flow_runs/filter", {"flow_runs": wanted, "sort": "START_TIME_ASC"}))

    def close(self) -> None:
        """Leave nobody behind, runs included."""
        for service in self._services[::-1]:
            service.close()


def _answer(request: urllib.request.Request) -> bytes | None:
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return bytes(reply.read()) or b"null"
    except urllib.error.HTTPError as error:
        if error.code != BUSY:
            raise
        return None


def owner(workspace: Path) -> int | None:
    """Process that holds a workspace, as its lock says."""
    try:
        return int(json.loads((workspace / "lock").read_text())["pid"])
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """A site that is left empty."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Site(folder)
    try:
        yield here
    finally:
        here.close()
