"""A data set, a standing Prefect server and real processes for tests that run the whole pipeline."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands import _QUIET
from storage.demo_data import CLASSES, make_demo
from tests.flows.launcher import Launcher

PREFECT = {
    **_QUIET,
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

LARGE = 50
"""Entries of tables that nobody wants to read whole."""


@dataclass(frozen=True)
class Reference:
    """A finished, undisturbed run and how long it took; nobody writes into its workspace."""

    config: Path
    workspace: Path
    seconds: float


def settings(root: Path) -> dict[str, Any]:
    """A small run: four shards, two proposals, two epochs."""
    table = {"table": "labels.csv", "labels": "labels", "mask": "mask", "split_column": "split"}
    return {
        "dataset": {"format": "table", "root": str(root), **table, "classes": list(CLASSES)},
        "classifier": {"backbone": "small", "input_size": 64, "train": {"epochs": 2, "batch_size": 8}},
        "proposals": [
            {"method": "grad_cam", "layers": ["S5"]},
            {"method": "layer_cam", "layers": ["S4", "S5"], "truncation": 20},
        ],
        "report": {"overlays": 2},
        # One thread inside a network pass: sums in the same order, so that values are equal to the last bit.
        "runtime": {"device": "cpu", "shard_images": 6, "workers": 2, "threads": 1},
    }


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Of two large tables that differ (the files of two workspaces, say), only where they do."""
    if op != "==" or not (isinstance(left, dict) and isinstance(right, dict)) or len(left) + len(right) < LARGE:
        return None
    lines = ["tables differ:"]
    for key in sorted({*left, *right}, key=str):
        if left.get(key) != right.get(key):
            lines.append(f"  {key}: {left.get(key, 'absent')} and {right.get(key, 'absent')}")
    return lines


def poll(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Ask until the answer is true; returns it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := condition():
            return answer
        time.sleep(0.02)
    raise TimeoutError(f"not true within {seconds} s: {condition}")


def answers(url: str) -> bool:
    """Whether a server says that it is well."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a standing Prefect server on loopback with a database of its own."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, **PREFECT, "PREFECT_HOME": str(home)}
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        poll(lambda: answers(url) or server.poll() is not None, 120)
        assert server.poll() is None, (home / "server.log").read_text()
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def maskmill(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Runs the command line in processes of their own, against the standing server."""
    folder = tmp_path_factory.mktemp("launcher")
    launcher = Launcher(folder, {**PREFECT, "PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(folder)})
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 24 images; nobody writes into it."""
    return make_demo(tmp_path_factory.mktemp("data") / "demo", images=24, size=64)


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(data, tmp_path / "demo"))


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write the small run's configuration for a data root, with other sections in place of its own."""

    def write(root: Path, **sections: object) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**settings(root), **sections}))
        return path

    return write


@pytest.fixture(scope="session")
def reference(maskmill: Launcher, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    config, workspace = folder / "config.yaml", folder / "workspace"
    config.write_text(yaml.safe_dump(settings(data)))
    # The first process warms the server up; a time without that is what kills are spread over.
    assert maskmill.run("stage", config, "-w", folder / "warm").status == 0
    began = time.monotonic()
    done = maskmill.run("run", config, "-w", workspace)
    assert done.status == 0, done.err
    return Reference(config, workspace, time.monotonic() - began)


@pytest.fixture
def workspace(reference: Reference, tmp_path: Path) -> Path:
    """A copy of the undisturbed run's workspace to work on; times stay as they were."""
    return Path(shutil.copytree(reference.workspace, tmp_path / "workspace"))
