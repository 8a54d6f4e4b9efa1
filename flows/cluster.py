"""The shards of a run on the workers of a Dask cluster: one Prefect task a stage, each shard a bare Dask task.

The store stays the truth. Workers write and commit their shards themselves, nothing but numbers comes back, and a stage
is done when the store says so.
"""

import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from distributed import Client, KilledWorker, as_completed
from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Runtime
from flows.cluster_start import GPU, start_cluster
from flows.cluster_worker import StagePlugin, do_shard, do_shard_alone, forget, packages, patiently, running, stages
from flows.parcel import Parcel, pack
from flows.progress import Bar
from storage.files import digest, sweep_strays
from tasks.context import Work
from tasks.state import State

AHEAD = 2
"""Shards that each worker has at hand, the one in work included."""
ALONE = 5
"""How often a shard is tried image by image, each time until three workers have died."""
CONNECT_SECONDS = 30
VISIBLE_SECONDS = 60.0
"""How long a network's file system may take to show here what a worker has written."""
_LOOK = 0.5
_DEATHS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between asking all workers again where one died while it was asked: it is gone, or replaced, by then."""


class ClusterError(RuntimeError):
    """A cluster that did not do what it was asked for."""


def connect(target: Any) -> Any:
    """A client of a cluster that was started here, or of the scheduler at an address."""
    return Client(target, set_as_default=False, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]


class Cluster:
    """The workers of one run: connected to, or started, when the first stage has something to do.

    Parameters
    ----------
    runtime
        Where the scheduler is, and what shards ask for.
    workers
        Processes to start where there is no address.
    cuda
        Whether this machine's networks compute on GPUs.
    name
        What tells the shards of this workspace from those of others.
    """

    def __init__(self, runtime: Runtime, workers: int, *, cuda: bool, name: str) -> None:
        self.runtime, self.workers, self.cuda = runtime, workers, cuda
        self.prefix = f"maskmill-{digest(name.encode())[:12]}-"
        self._own: Any = None
        self._stopped = False
        self._known, self._looked = 1, -_LOOK

    @cached_property
    def client(self) -> Any:
        """The connection; shards of an earlier run of this workspace that died are waited for.

        Raises
        ------
        ClusterError
            Workers have other packages than this process.
        """
        if self.runtime.address is None:
            self._own = start_cluster(self.workers, cuda=self.cuda)
        client = connect(self._own or self.runtime.address)
        try:
            _check_packages(client)
            self._clear(client)
        except BaseException:
            client.close()
            raise
        return client

    def __call__(self, work: Work, todo: list[int], bar: Bar) -> None:
        """Do shards of a stage from inside a flow, and wait for them.

        Raises
        ------
        Exception
            The first failure, after the shards in flight have ended; what is committed stays committed.
        ClusterError
            The workers committed shards that cannot be seen here.
        """
        try:
            spread_stage.submit(self, work, torch.get_num_threads(), todo, bar, work.title).result()
        except BaseException:
            self._stopped = True
            raise

    def do(self, work: Work, threads: int, todo: list[int], bar: Bar) -> None:
        """Do shards of a stage; see :meth:`__call__`."""
        parcel, stage = pack(work, self.runtime.device), f"{self.prefix}{work.title}-{uuid.uuid4().hex[:8]}"
        asks = self._asks(work.title, parcel)
        self._tell_of_waiting(asks)
        plugin = StagePlugin(parcel.data, threads, network=parcel.network)
        patiently(lambda: self.client.register_plugin(plugin, name=stage), _DEATHS)
        try:
            self._all(stage, todo, asks, bar)
        finally:
            _forget(self.client, stage)
        _await_visible(work, todo)
        for folder in work.folders:
            # Of workers that died while they wrote.
            sweep_strays(folder.folder)

    def _all(self, stage: str, todo: list[int], asks: dict[str, float], bar: Bar) -> None:
        left = iter(todo)
        flying: Any = as_completed(loop=self.client.loop)  # type: ignore[no-untyped-call]
        failure: BaseException | None = None
        alone: Counter[int] = Counter()
        self._fill(flying, stage, left, asks)
        for future in flying:
            error = future.exception() if future.status == "error" else None
            shard = int(str(future.key).rpartition("-")[2])
            if future.status == "finished":
                # Elsewhere there is nothing to fetch from the worker, and fetching it would take longer than to say so.
                if alone[shard] and (rows := future.result()):
                    _say(f"{stage}, shard {shard}: left out {len(rows)} images that kill; the report names them")
                bar.step()
            elif isinstance(error, KilledWorker) and alone[shard] < ALONE:
                # Its images are tried in a process of their own: if workers die now, others have killed them.
                if not alone[shard]:
                    _say(f"{stage}, shard {shard}: killed its workers; trying its images one by one")
                alone[shard] += 1
                flying.add(self._submit(do_shard_alone, f"{stage}-alone-{alone[shard]}", stage, shard, asks))
            else:
                failure = failure or error or ClusterError(f"{stage}, shard {shard}: {future.status}")
            # The scheduler forgets it: nothing of a stage stays behind.
            future.release()
            if failure is None and not self._stopped:
                self._fill(flying, stage, left, asks)
        if failure is not None:
            raise failure

    def _fill(self, flying: Any, stage: str, left: Iterator[int], asks: dict[str, float]) -> None:
        """Keep a bounded number of shards in flight."""
        if time.monotonic() > self._looked + _LOOK:
            # Workers come and go; asking at every shard would keep the scheduler from its own work.
            self._looked, self._known = time.monotonic(), max(1, len(self.client.nthreads()))
        room = AHEAD * self._known - flying.count()
        for _, shard in zip(range(room), left):
            flying.add(self._submit(do_shard, stage, stage, shard, asks))

    def _submit(
        self, call: Callable[[str, int], list[int] | None], key: str, stage: str, shard: int, asks: dict[str, float]
    ) -> Any:
        return self.client.submit(
            call, stage, shard, key=f"{key}-{shard}", pure=False, retries=0, resources=asks or None
        )

    def _asks(self, title: str, parcel: Parcel) -> dict[str, float]:
        """What a shard of a stage asks for."""
        if self.runtime.address is None:
            return {GPU: 1} if self.cuda and parcel.network else {}
        return self.runtime.resources.asked(title, network=parcel.network)

    def _tell_of_waiting(self, asks: dict[str, float]) -> None:
        known = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(all(one["resources"].get(name, 0) >= amount for name, amount in asks.items()) for one in known):
            wish = " with " + ", ".join(f"{name}={amount:g}" for name, amount in asks.items()) if asks else ""
            _say(f"waiting for a worker{wish} at {self.runtime.address}")

    def _clear(self, client: Any) -> None:
        """Wait for shards that a run which was killed has left in work, and remove what it left behind."""
        told = False
        while busy := sum(_ask(client, running, self.prefix).values()):
            if not told:
                _say(f"waiting for {busy} shards that an earlier run of this workspace left in work")
            told = True
            time.sleep(_LOOK)
        for stage in {name for found in _ask(client, stages, self.prefix).values() for name in found}:
            _forget(client, stage)

    def close(self) -> None:
        """Let go of the workers, and end those that were started here."""
        if "client" in self.__dict__:
            self.client.close()
        if self._own is not None:
            self._own.close()


@task(
    name="stage-on-cluster",
    task_run_name="{title}",
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,
)
def spread_stage(cluster: Cluster, work: Work, threads: int, todo: list[int], bar: Bar, title: str) -> None:  # noqa: ARG001
    """All shards of a stage; Prefect sees one task, since one a shard would cost more than the shards."""
    cluster.do(work, threads, todo, bar)


@contextmanager
def cluster_of(state: State) -> Iterator[Cluster]:
    """The cluster of a run, closed at its end."""
    runtime, root = state.run.config.runtime, str(state.run.workspace.root)
    cluster = Cluster(runtime, state.workers, cuda=state.device.type == "cuda", name=root)
    try:
        yield cluster
    finally:
        cluster.close()


def _ask(client: Any, question: Callable[..., Any], *about: str) -> dict[str, Any]:
    """What every worker answers."""
    answers: dict[str, Any] = patiently(lambda: client.run(question, *about), _DEATHS)
    return answers


def _forget(client: Any, stage: str) -> None:
    """Remove a stage from the scheduler and from all workers."""
    try:
        client.unregister_worker_plugin(stage)
    except (OSError, ValueError):
        # A worker died while it was told: the scheduler has forgotten the stage, other workers may not have heard.
        _ask(client, forget, stage)


def _check_packages(client: Any) -> None:
    here = packages()
    for worker, there in _ask(client, packages).items():
        other = [f"{name} {there[name]} (here {here[name]})" for name in here if there[name] != here[name]]
        if other:
            raise ClusterError(f"expected the packages of this process on worker {worker}, saw {', '.join(other)}")


def _await_visible(work: Work, todo: list[int]) -> None:
    until = time.monotonic() + VISIBLE_SECONDS
    while unseen := sorted({*todo} & {*work.missing()}):
        if time.monotonic() > until:
            raise ClusterError(
                f"{work.title}: expected {len(todo)} shards that workers committed, {len(unseen)} are not in the "
                f"workspace (first: {unseen[0]}); do the workers see the same files under the same paths?"
            )
        time.sleep(_LOOK)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
