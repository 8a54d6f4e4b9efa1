import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from storage.conditional import create, look, swap
from storage.places import PlaceError


class TestCreate:
    def test_smoke(self, remote: Path) -> None:
        tag = create(remote / "lock", b"one")
        assert tag
        assert create(remote / "lock", b"two") is None
        seen = look(remote / "lock")
        assert seen is not None
        assert (seen.data, seen.tag) == (b"one", tag)
        assert -1 <= seen.age < 60

    def test_one_of_many_gets_through(self, remote: Path) -> None:
        won = in_parallel(8, lambda number: create(remote / "lock", str(number).encode()))
        assert sum(tag is not None for tag in won) == 1
        seen = look(remote / "lock")
        assert seen is not None
        assert won[int(seen.data)] == seen.tag


class TestSwap:
    def test_smoke(self, remote: Path) -> None:
        first = create(remote / "lock", b"one")
        assert first is not None
        second = swap(remote / "lock", b"two", first)
        assert second not in (None, first)
        assert swap(remote / "lock", b"three", first) is None
        seen = look(remote / "lock")
        assert seen is not None
        assert (seen.data, seen.tag) == (b"two", second)

    def test_nothing_there(self, remote: Path) -> None:
        assert look(remote / "lock") is None
        assert swap(remote / "lock", b"one", '"0"') is None
        assert look(remote / "lock") is None

    def test_one_of_many_gets_through(self, remote: Path) -> None:
        tag = create(remote / "lock", b"")
        assert tag is not None
        won = in_parallel(8, lambda number: swap(remote / "lock", str(number).encode(), tag))
        assert sum(one is not None for one in won) == 1

    def test_refuses_other_stores(self) -> None:
        elsewhere: Any = UPath("http://localhost/run")
        with pytest.raises(PlaceError, match="so two runs could hold it at once"):
            create(elsewhere, b"")


def in_parallel(count: int, call: Callable[[int], str | None]) -> list[str | None]:
    """What every call gave, by number; they start together."""
    start = threading.Barrier(count)
    found: list[str | None] = [None] * count

    def work(number: int) -> None:
        start.wait()
        found[number] = call(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
