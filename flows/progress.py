"""Progress on a terminal: rate and remaining time; one line per finished step otherwise."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class Bar:
    """Counts the shards of one step."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar
        self.done = 0

    def step(self, note: str = "") -> None:
        """One more is done."""
        self.done += 1
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update()


@contextmanager
def progress(title: str, total: int, cached: int, what: str = "shards") -> Iterator[Bar]:
    """Show a step while it runs; nothing moves where standard error is no terminal."""
    began = time.monotonic()
    with tqdm(total=total, desc=f"{title:<10}", unit=f" {what}", disable=None, file=sys.stderr, leave=False) as inner:
        bar = Bar(inner)
        yield bar
    seconds = time.monotonic() - began
    known = f", {cached} as before" if cached else ""
    print(f"{title:<10} {bar.done} {what} done{known} ({seconds:.1f} s)", file=sys.stderr)
