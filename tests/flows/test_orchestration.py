"""Flows run and schedules are made: both broke without a word under newer versions of what Prefect stands on."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import PREFECT, Reference, poll
from tests.flows.contents import contents, records
from tests.flows.launcher import PROJECT

RUN = """
import sys
from flows.run import maskmill_flow
print(maskmill_flow(sys.argv[1], sys.argv[2], last="stage")["done"])
"""
DEPLOY = """
import sys
from datetime import timedelta
from flows.run import maskmill_flow
deployment = maskmill_flow.to_deployment(
    "nightly", interval=timedelta(hours=1), parameters={"config": sys.argv[1], "workspace": sys.argv[2]}
)
print(deployment.apply())
"""


def settings(environment: dict[str, str]) -> dict[str, str]:
    """An environment whose Prefect is told nothing but this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, **PREFECT, "PYTHONPATH": str(PROJECT), **environment}


def python(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a fresh interpreter."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=settings(environment), capture_output=True, text=True, timeout=240)


def die_with_server(*arguments: object, **environment: str) -> None:
    """Run an interpreter that kills itself; the embedded server that it leaves behind is killed too."""
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, env=settings(environment), start_new_session=True)
    try:
        assert process.wait(240) == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def ask(url: str, question: dict[str, Any]) -> Any:
    """POST to the Prefect API."""
    request = urllib.request.Request(url, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


class TestOrchestration:
    def test_a_flow_runs_against_the_embedded_server(self, reference: Reference, tmp_path: Path) -> None:
        done = python("-c", RUN, reference.config, tmp_path / "workspace", PREFECT_HOME=str(tmp_path / "prefect"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str({"stage": 1, "truth": 4})
        database = sqlite3.connect(tmp_path / "prefect" / "prefect.db")
        try:
            states = database.execute(
                "select flow.name, state_type from flow_run join flow on flow.id = flow_id"
            ).fetchall()
        finally:
            database.close()
        assert sorted(states) == [(name, "COMPLETED") for name in ("maskmill", "run", "stage")]

    def test_a_deployment_gets_scheduled_runs(self, prefect_server: str, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        done = python("-c", DEPLOY, reference.config, workspace, PREFECT_API_URL=prefect_server)
        assert done.returncode == 0, done.stderr
        question = {
            "deployments": {"id": {"any_": [done.stdout.strip()]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        runs = poll(lambda: ask(f"{prefect_server}/flow_runs/filter", question))
        assert runs[0]["parameters"] == {"config": str(reference.config), "workspace": str(workspace)}

    @pytest.mark.slow
    def test_the_database_may_be_deleted_between_runs(self, reference: Reference, tmp_path: Path) -> None:
        home, workspace = tmp_path / "prefect", tmp_path / "workspace"
        command = ("-m", "flows.cli", "run", reference.config, "-w", workspace)
        die_with_server(*command, PREFECT_HOME=str(home), MASKMILL_DIE_AT="infer:3")
        shutil.rmtree(home)
        before = records(workspace)
        resumed = python(*command, PREFECT_HOME=str(home))
        assert resumed.returncode == 0, resumed.stderr
        after = records(workspace)
        assert {name: after[name] for name in before} == before
        assert contents(workspace) == contents(reference.workspace)
        shutil.rmtree(home)
        again = python(*command, PREFECT_HOME=str(home))
        assert again.returncode == 0, again.stderr
        assert records(workspace) == after
