"""Work in slices that are halved when memory runs out."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

# What allocators say that raise a plain RuntimeError: the CPU's on Linux and on Windows, cuBLAS, Apple's.
SHORTAGES = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")

_log = logging.getLogger(__name__)


class OneRowMemoryError(MemoryError):
    """Not even one row fits into memory, so a smaller slice cannot help."""


def halving(call: Callable[[slice], Result], rows: int, size: int) -> tuple[list[Result], int]:
    """Call a function on one slice of rows after another, and on half as many at a time once memory runs out.

    Parameters
    ----------
    call
        Takes ``slice(start, stop)`` and does the work of these rows. A slice that ran out of memory is done again in
        parts, so a call must leave nothing behind that a second one would count twice.
    rows
        How many there are.
    size
        Most rows at a time.

    Returns
    -------
    list, int
        What each call returned, in the order of the rows, and the size that fits: ``size`` unless memory ran out.
        Start with it next time.

    Raises
    ------
    OneRowMemoryError
        A single row does not fit. It is a ``MemoryError``, so a caller that works in slices itself can halve in turn.
    ValueError
        ``size`` below 1.

    Notes
    -----
    Out of memory is ``torch.OutOfMemoryError``, ``MemoryError``, or a ``RuntimeError`` that says so, as the CPU's
    allocator raises. Where the system promises memory that it does not have (overcommit), a process may be killed
    instead: a bound on the size is the only help then.

    Examples
    --------
    >>> def work(part: slice) -> int:
    ...     if part.stop - part.start > 3:
    ...         raise MemoryError("more than 3 rows")
    ...     return part.stop - part.start
    >>> halving(work, 7, 4)
    ([2, 2, 2, 1], 2)
    """
    if size < 1:
        raise ValueError(f"expected a size of at least 1, got {size}")
    results: list[Result] = []
    start = 0
    while start < rows:
        part = slice(start, min(start + size, rows))
        try:
            results.append(call(part))
            start = part.stop
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        # Not inside of the except block: there the exception still holds what the failed call had in memory.
        torch.cuda.empty_cache()  # Nothing where CUDA is not in use.
        size = _half(part.stop - start, reason)
    return results, size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, whoever's memory it is.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(shortage in str(error) for shortage in SHORTAGES)


def _half(tried: int, reason: str) -> int:
    if tried == 1:
        raise OneRowMemoryError(
            f"one row alone does not fit into memory ({reason}): use smaller images, a lower precision, fewer workers, "
            "or a device with more memory"
        )
    half = tried // 2
    _log.warning("out of memory at a batch of %d, going on with %d; set it to start there (%s)", tried, half, reason)
    return half
