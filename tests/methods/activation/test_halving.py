import gc
import logging
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation.halving import OneRowMemoryError, halving, is_out_of_memory


def room_for(rows: int, error: Callable[[], Exception] = MemoryError) -> tuple[Callable[[slice], list[int]], list[int]]:
    """A call that fails above some rows, and the sizes it was tried with."""
    tried: list[int] = []

    def work(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if tried[-1] > rows:
            raise error()
        return list(range(part.start, part.stop))

    return work, tried


class TestHalving:
    def test_smoke(self) -> None:
        work, tried = room_for(8)
        assert halving(work, 20, 8) == ([list(range(8)), list(range(8, 16)), list(range(16, 20))], 8)
        assert tried == [8, 8, 4]

    def test_no_rows(self) -> None:
        assert halving(room_for(8)[0], 0, 4) == ([], 4)

    @given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 50))
    @settings(max_examples=50, deadline=None)
    def test_every_row_once_and_in_order(self, rows: int, size: int, room: int) -> None:
        work, _ = room_for(room)
        results, fits = halving(work, rows, size)
        assert [row for result in results for row in result] == list(range(rows))
        assert max(map(len, results)) <= min(size, room)
        assert fits == size if min(size, rows) <= room else fits <= room

    def test_halves_what_was_tried_and_stays_there(self, caplog: pytest.LogCaptureFixture) -> None:
        work, tried = room_for(5)
        with caplog.at_level(logging.WARNING):
            results, fits = halving(work, 20, 64)
        assert fits == 5
        assert tried == [20, 10, 5, 5, 5, 5]
        assert len(results) == 4
        assert [record.getMessage().split(";")[0] for record in caplog.records] == [
            "out of memory at a batch of 20, going on with 10",
            "out of memory at a batch of 10, going on with 5",
        ]

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError,
            lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            lambda: torch.cuda.OutOfMemoryError("CUDA out of memory."),
            lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
            lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
            lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        ],
    )
    def test_kinds_of_shortage(self, error: Callable[[], Exception]) -> None:
        assert halving(room_for(1, error)[0], 2, 2) == ([[0], [1]], 1)

    def test_what_the_allocator_raises(self) -> None:
        def work(part: slice) -> int:
            return torch.empty(2**48 if part.stop - part.start > 1 else 1, 4, dtype=torch.float64).shape[1]

        assert halving(work, 3, 2) == ([4, 4, 4], 1)

    def test_failed_call_holds_no_memory_during_the_next(self) -> None:
        seen: list[weakref.ref] = []

        def work(_part: slice) -> None:
            gc.disable()
            if seen:
                assert seen[-1]() is None
            held = torch.empty(3)
            seen.append(weakref.ref(held))
            if len(seen) < 3:
                raise MemoryError

        try:
            halving(work, 8, 8)
        finally:
            gc.enable()
        assert len(seen) == 6

    def test_other_errors_pass(self) -> None:
        work, tried = room_for(1, lambda: RuntimeError("shapes differ"))
        with pytest.raises(RuntimeError, match="shapes differ"):
            halving(work, 4, 4)
        assert tried == [4]

    def test_one_row_too_many(self) -> None:
        with pytest.raises(OneRowMemoryError, match=r"one row alone .*MemoryError: full.*smaller images"):
            halving(room_for(0, lambda: MemoryError("full"))[0], 4, 4)

    def test_nested(self) -> None:
        # Two rows outside leave no room for even one inside; one row outside does.
        def outer(part: slice) -> int:
            inner, _ = room_for(3 if part.stop - part.start == 1 else 0)
            return sum(map(len, halving(inner, 6, 6)[0]))

        assert halving(outer, 2, 2) == ([6, 6], 1)

    def test_refuses_size(self) -> None:
        with pytest.raises(ValueError, match="size of at least 1, got 0"):
            halving(room_for(1)[0], 4, 0)


class TestIsOutOfMemory:
    def test_smoke(self) -> None:
        assert is_out_of_memory(torch.OutOfMemoryError("x"))
        assert not is_out_of_memory(ValueError("out of memory"))
