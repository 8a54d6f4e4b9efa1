"""The lock of a workspace in an object store: one object that its holder renews, and that others take when it stops.

No store tells of a process that died, as a kernel does when it frees a file lock. So the holder writes its name and a
term into the object ``lock`` and renews it from a thread. Who finds a fresh one is refused; who finds one whose term is
over replaces it under the condition that nobody else has (:mod:`storage.conditional`), so that of two takers one wins.
A process that died on this very machine is found out at once. The age of a lease is counted by the store's clock alone.

Why that is safe although no lease can stop a process that sleeps through its term and then goes on to write: the lock
keeps two runs from wasting each other's work, it is not what keeps the workspace whole. A key names all that a result
depends on, an object is replaced whole by one PUT, and a record comes last. A holder asks before every write whether
the lease is still its own, so all that can come late is the one request that was under way: either the removal of a
record, which is then made anew, or bytes that are those of the new holder (on a machine that rounds differently they
may not be: then `maskmill verify` finds the object, and with ``--repair`` it is done again). Workers of a cluster hold
no lease: what they have begun they commit, likewise.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.conditional import Seen, create, look, swap
from storage.places import PlaceError
from storage.writing import guarded, write_error

TERM = 60.0
RENEWAL = 20.0
_TRIES = 5


class LeaseHeldError(RuntimeError):
    """Somebody else has the lease; ``owner`` says who."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


class LeaseLostError(LeaseHeldError):
    """The lease was this process's and is no longer."""


@dataclass
class Lease:
    """A lease on a prefix of an object store.

    Parameters
    ----------
    path
        The lock object.
    term
        Seconds after which a lease that was not renewed may be taken by others.
    renewal
        Seconds between renewals.
    """

    path: Path
    term: float = TERM
    renewal: float = RENEWAL

    def __post_init__(self) -> None:
        self._name = uuid.uuid4().hex
        self._tag = ""
        self._since = ""
        self._renewed = 0.0
        self._lost: str | None = None
        self._stop = threading.Event()
        self._guard = threading.Lock()

    def owner(self) -> str | None:
        """Who has it now, None if nobody does."""
        seen = look(self.path)
        return None if seen is None or _is_free(seen) else _described(seen)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lease; inside, nothing is written below the lock's folder once somebody else has it.

        Raises
        ------
        LeaseHeldError
            Somebody else holds it.
        LeaseLostError
            Raised by writes inside: somebody took it, since it could not be renewed in time.
        PlaceError
            The store does not heed conditions.
        WriteError
            The store cannot be written: no such bucket, no credentials, no right.
        """
        try:
            self._take()
            self._try_conditions()
        except OSError as error:
            raise write_error(self.path, error) from error
        renewer = threading.Thread(target=self._keep, name="lease", daemon=True)
        renewer.start()
        try:
            with guarded(self.path.parent, self.check):
                yield
        finally:
            self._stop.set()
            renewer.join(self.renewal)
            self._release()

    def check(self) -> None:
        """Whether it is still held; one that may have run out is renewed first.

        Raises
        ------
        LeaseLostError
            Somebody else has it.
        OSError
            The store does not answer, and has not for a whole term.
        """
        if self._lost is None and _clock() - self._renewed > self.term:
            self._renew()
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def _take(self) -> None:
        self._since = time.strftime("%FT%T%z")
        for _ in range(_TRIES):
            began, seen = _clock(), look(self.path)
            if seen is None:
                tag = create(self.path, self._content())
            elif _is_free(seen) or _is_mine(seen, self._name):
                tag = swap(self.path, self._content(), seen.tag)
            else:
                raise LeaseHeldError(_described(seen))
            if tag is not None:
                self._tag, self._renewed = tag, began
                return
        raise LeaseHeldError("somebody who takes it at this moment")

    def _try_conditions(self) -> None:
        # A store that ignores what it does not know would let everybody in.
        content = self._content()
        if create(self.path, content) is not None or swap(self.path, content, '"0"') is not None:
            raise PlaceError(
                f"{self.path}: expected a store with conditional writes (If-None-Match, If-Match), this one ignores "
                "the conditions, so two runs could hold the workspace at once"
            )

    def _keep(self) -> None:
        while not self._stop.wait(self.renewal) and self._lost is None:
            # The store may come back before the term is over; `check` asks again when it matters.
            with suppress(OSError):
                self._renew()

    def _renew(self) -> None:
        with self._guard:
            for _ in range(_TRIES):
                began = _clock()
                tag = swap(self.path, self._content(), self._tag)
                if tag is not None:
                    self._tag, self._renewed = tag, began
                    return
                seen = look(self.path)
                if seen is None or not _is_mine(seen, self._name):
                    self._lost = "somebody who removed the lock" if seen is None else _described(seen)
                    return
                # Ours after all: an answer of the store was lost on its way.
                self._tag = seen.tag
            raise OSError(f"{self.path}: the store refuses to renew a lease that nobody else has")

    def _release(self) -> None:
        free = json.dumps({"free": uuid.uuid4().hex}).encode()
        with self._guard, suppress(OSError):
            if self._lost is None:
                swap(self.path, free, self._tag)

    def _content(self) -> bytes:
        told = {
            "name": self._name,
            "pid": os.getpid(),
            "host": platform.node(),
            "processes": _processes(),
            "since": self._since,
            "term": self.term,
            # Equal content could have an equal tag.
            "renewal": uuid.uuid4().hex,
        }
        return json.dumps(told).encode()


def _read(seen: Seen) -> dict[str, Any]:
    try:
        value = json.loads(seen.data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_mine(seen: Seen, name: str) -> bool:
    return _read(seen).get("name") == name


def _is_free(seen: Seen) -> bool:
    told = _read(seen)
    if "free" in told or seen.age > float(told.get("term", TERM)):
        return True
    return bool(told.get("processes")) and told["processes"] == _processes() and not _lives(int(told["pid"]))


def _described(seen: Seen) -> str:
    told = _read(seen)
    if "free" in told:
        return "nobody (it was released)"
    who = f"pid {told.get('pid')} on {told.get('host')} since {told.get('since')}"
    return f"{who} (renewed {max(seen.age, 0):.0f} s ago, free {told.get('term', TERM):g} s after the last renewal)"


def _processes() -> str:
    """What tells apart lists of processes: the machine since its start, and the container; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where there are such."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
