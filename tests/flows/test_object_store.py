"""A whole run into an S3 server, killed, refused room, resumed: object by object what a run on this machine makes."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.places import file_system, place
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import Reference
from tests.flows.contents import contents, records, results
from tests.flows.launcher import Launcher
from tests.storage.object_store import BUCKET, s3_server

URL = f"s3://{BUCKET}/runs/one"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment that leads to a server."""
    with s3_server() as surroundings:
        yield surroundings


def copied(folder: Path) -> Path:
    """All that lies in the store, as files."""
    fs, name = file_system(place(URL))
    for one in fs.find(name):
        target = folder / one.removeprefix(f"{name}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(one))
    return folder


@pytest.mark.slow
def test_killed_and_resumed_on_a_cluster(
    maskmill: Launcher, reference: Reference, s3: dict[str, str], tmp_path: Path
) -> None:
    died = maskmill.run("run", reference.config, "-w", URL, MASKMILL_DIE_AT="commit:15", **s3)
    assert died.status == -signal.SIGKILL, died.err
    before = copied(tmp_path / "before")
    assert 0 < len(records(before)) < len(records(reference.workspace))
    status = maskmill.run("status", URL, **s3)
    assert status.status == 0, status.err
    assert "held by    nobody" in status.out
    assert "unfinished" in status.out

    full = maskmill.run("run", reference.config, "-w", URL, MASKMILL_FAIL_WRITE="ENOSPC:30", **s3)
    assert full.status == 1
    assert f"{URL}/stages/" in full.err
    assert "no space left" in full.err
    assert "what is committed stays, run again to go on" in full.err
    assert "what is committed stays" in full.err

    done = maskmill.run("run", reference.config, "-w", URL, "--set", "runtime.executor=dask", **s3)
    assert done.status == 0, done.err
    assert f"report: {URL}/reports/" in done.out
    after = copied(tmp_path / "after")
    assert results(after) == results(reference.workspace)
    assert records(after).keys() == records(reference.workspace).keys()
    for name in records(before):
        assert (before / name).read_bytes() == (after / name).read_bytes(), f"{name} was done again"
    assert verify_workspace(Workspace(after))[1] == []
    _read_back(maskmill, reference, s3, tmp_path)


def _read_back(maskmill: Launcher, reference: Reference, s3: dict[str, str], tmp_path: Path) -> None:
    """Plan, verify and export of the store; another run finds nothing to do."""
    plan = maskmill.run("plan", reference.config, "-w", URL, **s3)
    assert plan.status == 0, plan.err
    assert f"workspace  {URL}" in plan.out
    assert " 0 to do, 4 cached" in plan.out
    verified = maskmill.run("verify", URL, **s3)
    assert verified.status == 0, verified.out
    assert ", 0 damaged" in verified.out
    for workspace, out in ((URL, tmp_path / "there"), (reference.workspace, tmp_path / "here")):
        exported = maskmill.run("export", workspace, "--format", "voc", "--out", out, **s3)
        assert exported.status == 0, exported.err
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    again = maskmill.run("run", reference.config, "-w", URL, **s3)
    assert again.status == 0, again.err
    assert results(copied(tmp_path / "again")) == results(reference.workspace)


@pytest.mark.slow
def test_a_held_one_is_refused(maskmill: Launcher, reference: Reference, s3: dict[str, str]) -> None:
    workspace = Workspace(f"s3://{BUCKET}/runs/held")
    with workspace.hold():
        refused = maskmill.run("stage", reference.config, "-w", str(workspace.root), **s3)
    assert refused.status == 3
    assert f"held: {workspace.root} is held by pid " in refused.err


@pytest.mark.slow
def test_refuses_a_bucket_that_is_not_there(maskmill: Launcher, reference: Reference, s3: dict[str, str]) -> None:
    refused = maskmill.run("stage", reference.config, "-w", "s3://no-such-bucket/run", **s3)
    assert refused.status == 1
    assert "s3://no-such-bucket/run/lock: " in refused.err
