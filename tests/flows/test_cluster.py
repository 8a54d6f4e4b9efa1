"""Shards on the workers of a cluster: the same bytes as here, whatever dies, and nothing stays behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from distributed.chaos import KillWorker
from tqdm import tqdm

import flows.cluster
import flows.run
from configs.cluster import StageName
from configs.schema import Runtime
from flows.cluster import Cluster, ClusterError
from flows.cluster_start import start_cluster
from flows.cluster_worker import held
from flows.parcel import pack
from flows.progress import Bar
from storage.aside import all_aside
from storage.index import read_index
from storage.labels import open_labels
from storage.stages import StageFolder
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tasks.context import FolderWork, ShardWork
from tests.flows.conftest import PREFECT, Reference, poll, settings
from tests.flows.contents import records, results, uncommitted
from tests.flows.launcher import PROJECT, Launcher
from tests.flows.works import CountWork, new_folder

WORKERS = 2
PATIENCE = 240.0
LIFETIME = 12.0
"""Seconds that a worker lives on average, at least, where all of them die again and again."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of this process."""
    made = Cluster(Runtime(executor="dask"), WORKERS, cuda=False, name=str(tmp_path_factory.mktemp("cluster")))
    yield made
    made.close()


def bar() -> Bar:
    """A bar that nobody sees."""
    return Bar(tqdm(disable=True))


def kept(cluster: Cluster) -> set[tuple[int, int]]:
    """Results and stages that any worker keeps."""
    return {*cluster.client.run(held).values()}


def other_packages() -> dict[str, str]:
    """As :func:`flows.cluster_worker.packages`, with another answer in a worker."""
    return {"torch": "0.1" if multiprocessing.parent_process() else "0.2"}


class TestCluster:
    def test_smoke(self, cluster: Cluster, tmp_path: Path) -> None:
        work, seen = CountWork(new_folder(tmp_path, 20)), bar()
        cluster.do(work, 1, work.missing(), seen)
        assert work.counted == [*range(80)]
        assert seen.done == 20

    def test_nothing_stays_on_workers(self, cluster: Cluster, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 8))
        cluster.do(work, 1, work.missing(), bar())
        poll(lambda: kept(cluster) == {(0, 0)}, 30)
        assert not cluster.client.futures

    def test_a_failure_is_raised_after_the_shards_in_flight(self, cluster: Cluster, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 40), wrong=[1])
        with pytest.raises(ValueError, match="shard 1 is wrong"):
            cluster.do(work, 1, work.missing(), bar())
        # The window, and nothing beyond what was in it: no other shard was begun.
        assert 1 in work.folder.missing()
        assert len(work.counted) < 20 * 4
        poll(lambda: kept(cluster) == {(0, 0)}, 30)

    def test_trouble_with_files_is_waited_out(self, cluster: Cluster, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 2), absent=[1])
        cluster.do(work, 1, work.missing(), bar())
        assert work.counted == [*range(8)]

    def test_shards_that_the_store_does_not_have(
        self, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(flows.cluster, "VISIBLE_SECONDS", 0.0)
        here, there = CountWork(new_folder(tmp_path / "a", 1)), new_folder(tmp_path / "b", 1)
        monkeypatch.setattr(flows.cluster, "pack", lambda _work, device: pack(CountWork(there), device))
        with pytest.raises(ClusterError, match="do the workers see the same files under the same paths"):
            cluster.do(here, 1, [0], bar())

    def test_workers_with_other_packages(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        again = Cluster(Runtime(executor="dask", address=cluster.client.scheduler.address), 0, cuda=False, name="x")
        monkeypatch.setattr(flows.cluster, "packages", other_packages)
        with pytest.raises(ClusterError, match=r"saw torch 0\.1 \(here 0\.2\)"):
            _ = again.client

    @pytest.mark.slow
    def test_shards_go_where_they_ask_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        workers = start_cluster(WORKERS, cuda=True)
        told = Runtime.model_validate(
            {"executor": "dask", "address": workers.scheduler_address, "resources": {"cpu": {"GPU": 1}}}
        )
        cluster = Cluster(told, 0, cuda=False, name=str(tmp_path))
        one, any_ = CountWork(new_folder(tmp_path / "a", 12)), CountWork(new_folder(tmp_path / "b", 12), seconds=0.1)
        cluster.do(one, 1, one.missing(), bar())
        assert len(one.counters) == 1
        cluster.runtime = Runtime(executor="dask", address=workers.scheduler_address)
        cluster.do(any_, 1, any_.missing(), bar())
        assert len(any_.counters) == WORKERS
        cluster.close()
        workers.close()
        assert "waiting for a worker" not in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_worker_is_killed(self, cluster: Cluster, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 12), seconds=0.3)
        victim = next(iter(cluster.client.run(os.getpid).values()))
        done: list[float] = []

        class Told(Bar):
            def step(self, note: str = "") -> None:
                super().step(note)
                done.append(time.monotonic())
                if len(done) == 3:
                    os.kill(victim, signal.SIGKILL)

        cluster.do(work, 1, work.missing(), Told(tqdm(disable=True)))
        assert work.counted == [*range(48)]
        assert all_aside(work.folder) == {}

    @pytest.mark.slow
    def test_a_deadly_row_is_left_out(self, cluster: Cluster, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 4), deadly=[6])
        cluster.do(work, 1, work.missing(), bar())
        assert work.counted == [row for row in range(16) if row != 6]
        # Nor is anything left of what was never whole.
        assert not list(tmp_path.rglob(".*"))
        assert [*all_aside(work.folder)] == [6]
        poll(lambda: kept(cluster) == {(0, 0)}, 30)


def spawned(pid: int) -> list[psutil.Process]:
    """Worker processes of a run."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [one for one in children if any("spawn_main" in word for word in one.cmdline())]
    except psutil.Error:
        return []


def proposed(workspace: Path) -> list[Path]:
    """Commit records of the shards that pass the network."""
    return list(workspace.glob("stages/propose-*/commits/[!.]*.json"))


def deaths(client: Any) -> int:
    """How many workers a scheduler has lost."""
    return sum(event["action"] == "remove-worker" for _, event in client.get_events("all"))


@pytest.fixture
def start_workers(prefect_server: str, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start ``maskmill cluster local``; returns the scheduler's address."""
    running: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> str:
        out = tmp_path / "cluster.out"
        command = [sys.executable, "-m", "flows.cli", "cluster", "local", "--workers", str(WORKERS), "--port", "0"]
        paths = {**os.environ, **PREFECT, "PYTHONPATH": str(PROJECT), "PREFECT_API_URL": prefect_server, **environment}
        with out.open("wb") as file:
            running.append(subprocess.Popen(command, env=paths, stdout=file))
        poll(lambda: "Ctrl-C" in out.read_text(), PATIENCE)
        return out.read_text().split()[1]

    yield start
    for one in running:
        one.terminate()
        one.wait(60)


def test_every_stage_may_ask_for_resources() -> None:
    assert flows.run.STEPS, "with the steps of a run every work is known"
    works = {*ShardWork.__subclasses__(), *FolderWork.__subclasses__()} - {FolderWork}
    assert {one.title for one in works if one.__module__.startswith("tasks.")} == {*get_args(StageName)}


@pytest.mark.slow
class TestRun:
    def test_the_same_bytes(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        done = maskmill.run("run", reference.config, "-w", workspace, "--set", "runtime.executor=dask")
        assert done.status == 0, done.err
        assert results(workspace) == results(reference.workspace)
        assert records(workspace).keys() == records(reference.workspace).keys()
        # Whatever a worker did not say is not worth saying.
        assert "distributed" not in done.err

    def test_frozen_features_come_from_workers_too(
        self, maskmill: Launcher, data: Path, write_config: Callable[..., Path], tmp_path: Path
    ) -> None:
        learned = {**settings(data)["classifier"], "frozen": True}
        refine = [{"step": "scg", "layers": ["S5"]}, {"step": "pamr", "iterations": 2}, {"step": "otsu"}]
        config = write_config(data, classifier=learned, refine=refine)
        for name in ("local", "dask"):
            override = ("--set", f"runtime.executor={name}")
            done = maskmill.run("run", config, "-w", tmp_path / name, *override)
            assert done.status == 0, done.err
        assert results(tmp_path / "dask") == results(tmp_path / "local")

    def test_kill_a_worker(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        running = maskmill.start("run", reference.config, "-w", workspace, "--set", "runtime.executor=dask")
        poll(lambda: any(workspace.glob("stages/truth-*/commits/[!.]*.json")), PATIENCE)
        spawned(running.pid)[0].kill()
        assert running.wait() == 0, running.err
        assert results(workspace) == results(reference.workspace)
        assert verify_workspace(Workspace(workspace))[1] == []

    def test_kill_the_run(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        override = ("--set", "runtime.executor=dask")
        running = maskmill.start("run", reference.config, "-w", workspace, *override)
        poll(lambda: proposed(workspace) or running.wait(0) is not None, PATIENCE)
        workers = spawned(running.pid)
        running.kill()
        assert running.wait() == -signal.SIGKILL
        assert len(workers) == WORKERS
        # They end with the run: none writes on behind the back of the next one.
        assert psutil.wait_procs(workers, timeout=60)[1] == []
        before, lost = records(workspace), uncommitted(workspace)
        assert len(lost) <= WORKERS
        done = maskmill.run("run", reference.config, "-w", workspace, *override)
        assert done.status == 0, done.err
        after = records(workspace)
        assert {name: after[name] for name in before} == before
        assert results(workspace) == results(reference.workspace)

    def test_kill_the_run_of_standing_workers(
        self, maskmill: Launcher, reference: Reference, start_workers: Callable[..., str], tmp_path: Path
    ) -> None:
        workspace, address = tmp_path / "workspace", start_workers()
        override = ("--set", "runtime.executor=dask", f"runtime.address={address}")
        running = maskmill.start("run", reference.config, "-w", workspace, *override)
        poll(lambda: proposed(workspace) or running.wait(0) is not None, PATIENCE)
        running.kill()
        assert running.wait() == -signal.SIGKILL
        before = records(workspace)
        done = maskmill.run("run", reference.config, "-w", workspace, *override)
        assert done.status == 0, done.err
        after = records(workspace)
        again = [name for name in before if after[name] != before[name]]
        assert len(again) <= WORKERS
        assert results(workspace) == results(reference.workspace)
        with flows.cluster.connect(address) as client:
            poll(lambda: {*client.run(held).values()} == {(0, 0)}, 30)

    @pytest.mark.parametrize("mode", ["sys.exit", "segfault"])
    def test_workers_that_die_all_the_time(
        self,
        maskmill: Launcher,
        reference: Reference,
        start_workers: Callable[..., str],
        tmp_path: Path,
        mode: Literal["sys.exit", "segfault"],
    ) -> None:
        began, number = time.monotonic(), 0
        address = start_workers()
        # As long as it takes to start them three times: on a busy machine they would die before anything is done.
        lifetime = max(LIFETIME, 3 * (time.monotonic() - began))
        with flows.cluster.connect(address) as client:
            client.register_plugin(KillWorker(delay=lifetime, mode=mode), name="chaos")
            while deaths(client) < 10:
                workspace, number = tmp_path / str(number), number + 1
                override = ("--set", "runtime.executor=dask", f"runtime.address={address}")
                done = maskmill.run("run", reference.config, "-w", workspace, *override)
                assert done.status == 0, done.err
                assert results(workspace) == results(reference.workspace)
                assert verify_workspace(Workspace(workspace))[1] == []

    def test_a_deadly_image(
        self,
        maskmill: Launcher,
        reference: Reference,
        start_workers: Callable[..., str],
        write_config: Callable[..., Path],
        data: Path,
        tmp_path: Path,
    ) -> None:
        deadly = 5
        index = read_index(reference.workspace / "images.parquet")
        sections = {"proposals": settings(data)["proposals"][1:], "refine": [{"step": "pamr"}, {"step": "otsu"}]}
        workspace, config = tmp_path / "workspace", write_config(data, **sections)
        # What came before knew nothing of it.
        assert maskmill.run("classify", config, "-w", workspace).status == 0
        address = start_workers(MASKMILL_DIE_ON=index.ids[deadly])
        override = ("--set", "runtime.executor=dask", f"runtime.address={address}")
        done = maskmill.run("run", config, "-w", workspace, *override)
        assert done.status == 0, done.err
        self.check_left_out(workspace, deadly, index.ids[deadly], "propose")
        before = results(workspace)
        for path in workspace.glob("stages/[!s]*/commits/0000*.json"):
            path.unlink()
        # A rerun anywhere does the same, without looking at the image again.
        done = maskmill.run("run", config, "-w", workspace, MASKMILL_DIE_ON=index.ids[deadly])
        assert done.status == 0, done.err
        assert results(workspace) == before

    @staticmethod
    def check_left_out(workspace: Path, deadly: int, image_id: str, stage: str) -> None:
        """One image is listed in quarantine and has no mask; every other has one."""
        found: Any = yaml.safe_load((workspace / "run.json").read_text())
        report = Workspace(workspace).report(found["report"])
        quarantined = pq.ParquetFile(report / "quarantine.parquet").read().to_pylist()
        assert {(row["image_id"], row["stage"]) for row in quarantined} == {(image_id, stage)}
        assert {row["reason"] for row in quarantined} == {"the process that looks at it is killed by SIGKILL"}
        for name in found["labels"]:
            store = open_labels(Workspace(workspace), StageFolder(workspace / "stages" / name))
            assert (store.mask(deadly) == 255).all()
            assert all((store.mask(row) != 255).any() for row in range(len(store.index)) if row != deadly)
        assert verify_workspace(Workspace(workspace))[1] == []
