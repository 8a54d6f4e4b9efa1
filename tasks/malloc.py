"""The C library's allocator, told how this program uses memory."""

import ctypes
import sys

TRIM_THRESHOLD, MAPPINGS = -1, -4
"""Numbers of glibc's ``mallopt`` parameters."""


def keep_memory() -> None:
    """Let glibc keep the memory that is freed; elsewhere this does nothing.

    Networks ask for the same large blocks batch after batch. By default each is mapped anew and given back, and the
    page faults of fresh blocks take as long as the arithmetic (measured: half of a run's processor time). A process
    keeps the most that it has held at once.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MAPPINGS, 0)
        library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
