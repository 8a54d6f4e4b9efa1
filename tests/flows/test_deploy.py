"""Scheduled runs with a real server and real workers: what they register, that they do only what is new, how they die.

Long on purpose: every run is a process of its own that a worker starts.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.server import free_port
from storage.index import read_index
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import Reference, poll
from tests.flows.contents import contents, records
from tests.flows.launcher import PROJECT, Launcher
from tests.flows.services import Site, owner, site
from tests.flows.test_adopt import add, computed, folders

LONG = 240.0


def ask(url: str, path: str) -> Any:
    with urllib.request.urlopen(f"{url}/{path}", timeout=30) as reply:
        return json.load(reply)


def arrays(workspace: Path) -> dict[str, str]:
    """Contents without pages, which name the data root."""
    return {name: digest for name, digest in contents(workspace).items() if not name.endswith(".html")}


def free_slots(site: Site, name: str) -> None:
    """Give a deployment's slots back at once, as the end of a dead run's lease does after five minutes."""
    limit = site.deployment(name)["global_concurrency_limit"]["id"]
    site.ask(f"v2/concurrency_limits/{limit}", {"active_slots": 0}, "PATCH")


class TestDeploy:
    def test_what_is_registered(
        self, maskmill: Launcher, prefect_server: str, reference: Reference, tmp_path: Path
    ) -> None:
        options = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--name", "night", "--pool", "ours")
        more = ("--limit", 5, "--set", "evaluate.curve=false")
        done = maskmill.run("deploy", reference.config, "-w", tmp_path / "workspace", *options, *more)
        assert done.status == 0, done.err
        assert "pool       ours (new)" in done.out
        assert f"deployed   maskmill/night into {tmp_path / 'workspace'}" in done.out
        assert "maskmill worker --pool ours" in done.out
        known = ask(prefect_server, "deployments/name/maskmill/night")
        assert known["entrypoint"] == "flows.run.maskmill_flow"
        assert known["parameters"] == {
            "config": str(reference.config),
            "workspace": str(tmp_path / "workspace"),
            "limit": 5,
            "overrides": ["evaluate.curve=false"],
        }
        assert known["work_pool_name"] == "ours"
        assert known["global_concurrency_limit"]["limit"] == 1
        assert known["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        (schedule,) = [one["schedule"] for one in known["schedules"]]
        assert (schedule["cron"], schedule["timezone"]) == ("30 2 * * *", "Europe/Berlin")
        assert ask(prefect_server, "work_pools/ours")["type"] == "process"
        # Again, by the minute: the pool stays, the schedule is replaced.
        again = maskmill.run("deploy", reference.config, "-w", tmp_path, "--interval", 60, *options[4:])
        assert again.status == 0, again.err
        assert "(new)" not in again.out
        schedules = ask(prefect_server, "deployments/name/maskmill/night")["schedules"]
        assert [one["schedule"].get("interval") for one in schedules] == [60.0]
        assert not (tmp_path / "workspace").exists()

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--cron", "every night"], "--cron"),
            ([], "one of --cron and --interval"),
            (["--interval", "60", "--timezone", "Mars"], "--timezone"),
            (["--interval", "60", "--limit", "0"], "--limit"),
            (["--interval", "60", "--set", "classifier.head=gapp"], "classifier.head"),
            (["--interval", "60", "--set", "classifier.weights=none.safetensors"], "none.safetensors"),
        ],
    )
    @pytest.mark.parametrize("command", ["deploy", "serve"])
    def test_refusals_come_first(
        self, maskmill: Launcher, reference: Reference, command: str, options: list[str], told: str
    ) -> None:
        done = maskmill.run(command, reference.config, *options, PREFECT_API_URL="http://127.0.0.1:9/api")
        assert done.status == 2
        assert told in done.err
        assert done.err.startswith("refused: ")

    def test_no_server(self, maskmill: Launcher, reference: Reference) -> None:
        url = f"http://127.0.0.1:{free_port()}/api"
        done = maskmill.run("deploy", reference.config, "--interval", 60, PREFECT_API_URL=url)
        assert done.status == 1
        assert done.err == (
            f"failed: no Prefect server answers at {url}; start one with `maskmill server`, or set PREFECT_API_URL\n"
        )

    def test_a_pool_of_another_kind(self, maskmill: Launcher, prefect_server: str, reference: Reference) -> None:
        body = json.dumps({"name": "served", "type": "docker"}).encode()
        request = urllib.request.Request(f"{prefect_server}/work_pools/", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=30).close()
        done = maskmill.run("deploy", reference.config, "--interval", 60, "--pool", "served")
        assert done.status == 1
        assert "expected a pool of type process, it is of type docker" in done.err


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of our own that lasts for the module's long tests."""
    with site(tmp_path_factory.mktemp("site")) as found:
        found.server()
        yield found


@pytest.mark.slow
class TestNights:
    def test_three_nights(
        self, here: Site, reference: Reference, own_data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        """The first makes everything, the second nothing, the third labels the three images that came."""
        workspace, config = tmp_path / "workspace", write_config(own_data)
        worker = here.worker()
        here.deploy(config, workspace, "--interval", 5, "--name", "nights")
        poll(lambda: here.runs("Completed"), LONG)
        assert arrays(workspace) == arrays(reference.workspace)
        first, known = records(workspace), folders(workspace)
        poll(lambda: len(here.runs("Completed")) >= 2, LONG)
        assert records(workspace) == first
        added = add(own_data, 3)
        poll(lambda: len(read_index(workspace / "images.parquet")) == 27, LONG)
        seen = len(here.runs("Completed"))
        poll(lambda: len(here.runs("Completed")) >= seen + 1, LONG)
        done = computed(workspace, known)
        assert all(images == set(added) for stage in done.values() for images in stage)
        assert len(done) == 6
        assert {name: records(workspace)[name] for name in first} == first
        assert Workspace(workspace).read_run()["index_stage"] not in known
        assert here.runs("Failed", "Crashed") == []
        here.ask(f"deployments/{here.deployment('nights')['id']}/pause_deployment", {})
        worker.close()

    def test_a_start_that_falls_into_a_run_is_cancelled(
        self, here: Site, data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        workspace, worker = tmp_path / "workspace", here.worker()
        here.deploy(write_config(data), workspace, "--cron", "0 2 1 1 *", "--name", "overlap")
        first = here.now("overlap")
        poll(lambda: len(records(workspace)) >= 3, LONG)
        running = owner(workspace)
        assert running is not None
        os.kill(running, signal.SIGSTOP)
        try:
            second = here.now("overlap")
            poll(lambda: here.state(second) == "Cancelled", LONG)
            assert here.state(first) == "Running"
        finally:
            os.kill(running, signal.SIGCONT)
        poll(lambda: here.state(first) == "Completed", LONG)
        worker.close()


@pytest.mark.slow
class TestDeath:
    """Whoever is killed, the labels become whole and the server is told the truth, at the latest by the next run."""

    def test_the_run(
        self, here: Site, reference: Reference, data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        workspace, worker = tmp_path / "workspace", here.worker()
        here.deploy(write_config(data), workspace, "--cron", "0 2 1 1 *", "--name", "killed")
        first = here.now("killed")
        poll(lambda: len(records(workspace)) >= 9, LONG)
        os.kill(owner(workspace) or 0, signal.SIGKILL)
        poll(lambda: here.state(first) == "Crashed", LONG)
        before = records(workspace)
        second = here.now("killed")
        poll(lambda: here.state(second) == "Completed", LONG)
        assert {name: records(workspace)[name] for name in before} == before
        assert contents(workspace) == contents(reference.workspace)
        worker.close()

    def test_the_run_and_its_worker(
        self, here: Site, reference: Reference, data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        """Nobody is left to tell; the slot comes back by itself (five minutes), and here by asking for the limit."""
        workspace, worker = tmp_path / "workspace", here.worker()
        here.deploy(write_config(data), workspace, "--cron", "0 2 1 1 *", "--name", "orphan")
        first = here.now("orphan")
        poll(lambda: len(records(workspace)) >= 9, LONG)
        running = owner(workspace) or 0
        os.kill(running, signal.SIGSTOP)
        worker.kill()
        os.kill(running, signal.SIGKILL)
        worker.close()
        assert here.state(first) == "Running"
        poll(lambda: Workspace(workspace).owner() is None)
        before = records(workspace)
        other = here.worker()
        # Not five minutes: the lease is taken from the dead run as its expiry would.
        free_slots(here, "orphan")
        second = here.now("orphan")
        poll(lambda: here.state(second) == "Completed", LONG)
        poll(lambda: here.state(first) == "Crashed", LONG)
        assert {name: records(workspace)[name] for name in before} == before
        assert contents(workspace) == contents(reference.workspace)
        other.close()

    def test_the_server(
        self, reference: Reference, data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        """The run may go on or not; with the server back the next one finds what is left."""
        workspace = tmp_path / "workspace"
        with site(tmp_path / "site") as own:
            server, _ = own.server(), own.worker()
            own.deploy(write_config(data), workspace, "--cron", "0 2 1 1 *", "--name", "server")
            own.now("server")
            poll(lambda: len(records(workspace)) >= 9, LONG)
            server.kill()
            before = records(workspace)
            own.server()
            poll(lambda: Workspace(workspace).owner() is None, LONG)
            free_slots(own, "server")
            own.worker()
            second = own.now("server")
            poll(lambda: own.state(second) == "Completed", LONG)
            assert {name: records(workspace)[name] for name in before} == before
            assert contents(workspace) == contents(reference.workspace)
            assert verify_workspace(Workspace(workspace))[1] == []
            poll(lambda: not own.runs("Running", "Pending"), LONG)


@pytest.mark.slow
class TestPrefectYaml:
    def test_prefects_own_command(
        self, here: Site, reference: Reference, data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        workspace, config = tmp_path / "workspace", write_config(data)
        told = {"MASKMILL_CONFIG": str(config), "MASKMILL_WORKSPACE": str(workspace)}
        environment = {**os.environ, **here.environment, **told, "PWD": str(PROJECT)}
        for arguments in (["work-pool", "create", "maskmill", "--type", "process"], ["deploy", "--name", "nightly"]):
            command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
            done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0 or "already" in done.stdout + done.stderr, done.stdout + done.stderr
        known = here.deployment("nightly")
        assert known["entrypoint"] == "flows.run.maskmill_flow"
        assert known["parameters"] == {"config": str(config), "workspace": str(workspace)}
        assert known["global_concurrency_limit"]["limit"] == 1
        assert known["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        worker = here.worker()
        run = here.now("nightly")
        poll(lambda: here.state(run) == "Completed", LONG)
        assert contents(workspace) == contents(reference.workspace)
        worker.close()


@pytest.mark.slow
class TestServe:
    def test_it_runs_and_pauses(
        self, here: Site, data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        workspace = tmp_path / "workspace"
        serving = here.start("serve", "serve", write_config(data), "-w", workspace, "--interval", 5, "--name", "laptop")
        poll(lambda: Workspace(workspace).read_run() if (workspace / "run.json").exists() else None, LONG)
        poll(lambda: Workspace(workspace).owner() is None, LONG)
        serving.process.terminate()
        assert serving.process.wait(60) == 0, serving.text()
        assert "stopped    laptop is paused" in serving.text()
        assert here.deployment("laptop")["paused"]
