"""What the benchmarks share: interleaved timing, the process's memory, tables, and a Prefect of their own."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Wall time of one call, or its time by another clock."""
    began = clock()
    call()
    return clock() - began


def interleaved(
    calls: dict[str, Callable[[], object]],
    repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times of several calls by name after one round to warm up, taken in turn and every other round backwards.

    Whatever else the machine does then falls on all of them alike. For what one thread computes, take
    ``time.process_time`` as the clock: it stands still while others have the core.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(-1, repetitions):
        for name in list(calls)[:: 1 if round_ % 2 else -1]:
            took = seconds(calls[name], clock)
            if round_ >= 0:
                times[name].append(took)
    return times


def ratio(times: Sequence[float], floor: Sequence[float]) -> float:
    """Median over the rounds of a time divided by the floor of the same round."""
    return statistics.median(a / b for a, b in zip(times, floor, strict=True))


def spread(times: Sequence[float], floor: Sequence[float]) -> str:
    """Smallest and largest of those ratios."""
    ratios = [a / b for a, b in zip(times, floor, strict=True)]
    return f"{min(ratios):.2f}..{max(ratios):.2f}"


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a small table."""
    cells = [list(header), *[[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    print(f"\n{title}")
    for line in cells:
        first, *rest = zip(line, widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *[cell.rjust(width) for cell, width in rest]]).rstrip())
    sys.stdout.flush()


def resident_bytes() -> int:
    """Memory of this process that is in RAM (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def private_prefect(folder: Path) -> Iterator[float]:
    """Prefect with a fresh database below ``folder`` and its embedded server running; yields the seconds that took.

    Must be entered before anything imports Prefect, which reads its settings then.
    """
    if "prefect" in sys.modules:
        raise RuntimeError("expected private_prefect before the first import of prefect")
    os.environ |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    from flows.commands import quiet_prefect

    quiet_prefect()
    import torch  # noqa: F401 - before the server starts, see flows.commands
    from prefect import flow

    @flow(name="nothing")
    def nothing() -> None:
        """Wake the server."""

    yield seconds(nothing)
