"""A shard that kills: the image that does it is found, left out, and stays so."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from flows.alone import DeadlyShardError, Order, do_alone
from flows.parcel import pack
from storage.aside import all_aside
from tests.flows.launcher import PROJECT
from tests.flows.works import CountWork, new_folder

REASON = "the process that looks at it is killed by SIGKILL"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has to find the works of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


def done_alone(work: CountWork, shard: int) -> dict[int, str]:
    """Do a shard in a process of its own."""
    return do_alone(work, pack(work, "cpu").data, 1, shard)


class TestDoAlone:
    def test_smoke(self, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 2))
        assert done_alone(work, 1) == {}
        assert work.counted == [4, 5, 6, 7]
        assert all_aside(work.folder) == {}

    @pytest.mark.slow
    def test_the_culprits_are_left_out(self, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 2), deadly=[4, 6])
        assert done_alone(work, 1) == {4: REASON, 6: REASON}
        assert work.counted == [5, 7]
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
        # Whoever does the shard again does the same, in any process.
        work.folder.log.withdraw("00001")
        work(1)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
        assert all_aside(work.folder) == {4: REASON, 6: REASON}

    @pytest.mark.slow
    def test_no_image_is_to_blame(self, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 1), together=4)
        with pytest.raises(DeadlyShardError, match=r"count, shard 0: .* none of its images does it alone"):
            done_alone(work, 0)
        assert all_aside(work.folder) == {}

    def test_a_failure_is_told(self, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 1), wrong=[0])
        with pytest.raises(DeadlyShardError, match="ValueError: shard 0 is wrong"):
            done_alone(work, 0)

    def test_whoever_asked_has_died(self, tmp_path: Path) -> None:
        work = CountWork(new_folder(tmp_path, 1))
        order = Order(pack(work, "cpu").data, 1, 0, None)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        command = [sys.executable, "-m", "flows.alone", str(gone.pid)]
        done = subprocess.run(command, input=pickle.dumps(order), capture_output=True)
        assert done.returncode == 1
        assert done.stderr == b""
        # Another process may have the shard by now.
        assert work.counted == []
