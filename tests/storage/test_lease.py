import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import storage.lease
from storage.conditional import create, look, swap
from storage.lease import Lease, LeaseHeldError, LeaseLostError
from storage.places import PlaceError, place
from storage.writing import WriteError, write_bytes_atomic


def steal(path: Path) -> None:
    """Put another owner's name into the lock, as a taker would."""
    content = {"name": "thief", "pid": 7, "host": "elsewhere", "since": "now", "term": 60.0}
    # A renewal may come in between.
    until(lambda: swap(path, json.dumps(content).encode(), tag_of(path)) is not None)


def tag_of(path: Path) -> str:
    seen = look(path)
    assert seen is not None
    return seen.tag


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


class TestHold:
    def test_smoke(self, remote: Path) -> None:
        path = remote / "lock"
        assert Lease(path).owner() is None
        with Lease(path).hold():
            assert f"pid {os.getpid()} on " in str(Lease(path).owner())
            write_bytes_atomic(remote / "a", b"written")
        assert Lease(path).owner() is None
        with Lease(path).hold():
            pass

    def test_refuses_a_second_holder_and_names_the_first(self, remote: Path) -> None:
        with Lease(remote / "lock").hold():
            with pytest.raises(LeaseHeldError, match=f"pid {os.getpid()} on "), Lease(remote / "lock").hold():
                pass
            write_bytes_atomic(remote / "a", b"still mine")

    def test_a_block_that_fails_lets_go(self, remote: Path) -> None:
        with pytest.raises(ZeroDivisionError), Lease(remote / "lock").hold():
            1 / 0  # noqa: B018
        assert Lease(remote / "lock").owner() is None

    def test_is_renewed(self, remote: Path) -> None:
        with Lease(remote / "lock", renewal=0.05).hold():
            first = tag_of(remote / "lock")
            until(lambda: tag_of(remote / "lock") != first)
            write_bytes_atomic(remote / "a", b"written")

    def test_a_fresh_lease_of_another_machine_is_respected(self, remote: Path) -> None:
        create(remote / "lock", b'{"name":"other","pid":7,"host":"elsewhere","since":"noon","term":60}')
        with pytest.raises(LeaseHeldError, match="pid 7 on elsewhere since noon"), Lease(remote / "lock").hold():
            pass

    def test_an_expired_one_is_taken_over(self, remote: Path) -> None:
        create(remote / "lock", b'{"name":"other","pid":7,"host":"elsewhere","since":"noon","term":0.1}')
        until(lambda: Lease(remote / "lock").owner() is None)
        with Lease(remote / "lock").hold():
            assert f"pid {os.getpid()} on " in str(Lease(remote / "lock").owner())

    def test_a_process_of_this_machine_that_died_holds_nothing(self, remote: Path) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        content = {"name": "other", "pid": process.pid, "host": "here", "since": "noon", "term": 60}
        create(remote / "lock", json.dumps({**content, "processes": storage.lease._processes()}).encode())
        assert (Lease(remote / "lock").owner() is None) == bool(storage.lease._processes())

    @pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}"])
    def test_an_odd_lock_is_held_until_it_is_old(self, remote: Path, content: bytes) -> None:
        create(remote / "lock", content)
        with pytest.raises(LeaseHeldError), Lease(remote / "lock").hold():
            pass

    def test_a_missing_bucket_is_told(self, s3: str) -> None:
        assert s3
        with (
            pytest.raises(WriteError, match=r"s3://no-such-bucket/run/lock: .*bucket"),
            Lease(place("s3://no-such-bucket/run/lock")).hold(),
        ):
            pass

    def test_refuses_a_store_that_ignores_conditions(self, remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def careless(path: Path, data: bytes) -> str:
            path.write_bytes(data)
            return "tag"

        monkeypatch.setattr(storage.lease, "create", careless)
        with pytest.raises(PlaceError, match="this one ignores the conditions"), Lease(remote / "lock").hold():
            pass


class TestStolen:
    def test_nothing_is_written_anymore(self, remote: Path) -> None:
        with Lease(remote / "lock", renewal=0.05).hold():
            steal(remote / "lock")
            until(lambda: writing_fails(remote / "a"))
            with pytest.raises(LeaseLostError, match="pid 7 on elsewhere"):
                write_bytes_atomic(remote / "b", b"late")
            assert not (remote / "b").exists()
        assert "pid 7 on elsewhere" in str(Lease(remote / "lock").owner())

    def test_who_slept_through_its_term_asks_before_it_writes(self, remote: Path) -> None:
        with Lease(remote / "lock", term=0.1, renewal=1000).hold():
            time.sleep(0.2)
            steal(remote / "lock")
            with pytest.raises(LeaseLostError):
                write_bytes_atomic(remote / "a", b"late")
            assert not (remote / "a").exists()

    def test_who_slept_and_was_not_robbed_goes_on(self, remote: Path) -> None:
        with Lease(remote / "lock", term=0.1, renewal=1000).hold():
            before = tag_of(remote / "lock")
            time.sleep(0.2)
            write_bytes_atomic(remote / "a", b"written")
            assert tag_of(remote / "lock") != before

    def test_a_removed_lock_is_lost(self, remote: Path) -> None:
        with Lease(remote / "lock", term=0.1, renewal=1000).hold():
            time.sleep(0.2)
            (remote / "lock").unlink()
            with pytest.raises(LeaseLostError, match="removed the lock"):
                write_bytes_atomic(remote / "a", b"late")

    def test_other_places_are_not_guarded(self, remote: Path, tmp_path: Path) -> None:
        with Lease(remote / "ws" / "lock", term=0.1, renewal=1000).hold():
            time.sleep(0.2)
            steal(remote / "ws" / "lock")
            write_bytes_atomic(remote / "other", b"fine")
            write_bytes_atomic(tmp_path / "other", b"fine")

    def test_an_answer_that_was_lost_is_no_theft(self, remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def deaf(path: Path, data: bytes, tag: str) -> None:
            swap(path, data, tag)
            monkeypatch.undo()

        with Lease(remote / "lock", term=0.1, renewal=1000).hold():
            time.sleep(0.2)
            monkeypatch.setattr(storage.lease, "swap", deaf)
            write_bytes_atomic(remote / "a", b"written")


def writing_fails(path: Path) -> bool:
    try:
        write_bytes_atomic(path, b"")
    except LeaseLostError:
        return True
    return False
