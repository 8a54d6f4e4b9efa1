"""Stopping with grace: SIGTERM (of Slurm before it pre-empts, of a service manager) and Ctrl-C end a run in seconds.

Shards in flight are finished where they can be, what is committed stays, and the last epoch's checkpoint with it.
Prefect answers SIGTERM too, by asking a server that the same signal may have ended; so a thread counts the seconds that
are left and ends the process whatever the rest of it waits for. Results never depend on this: a run survives SIGKILL.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

GRACE = 7.0
STOPPED = "stopped; what is committed stays, run again to go on"
_FAILED = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the process was told to stop; see :func:`stoppable`."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self.over = threading.Event()
        self._told = threading.Lock()
        self._raised = False

    def tell(self) -> None:
        """Say once that the run stopped."""
        if self._told.acquire(blocking=False):
            with contextlib.suppress(OSError, ValueError):
                print(STOPPED, file=sys.stderr, flush=True)

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """End what the main thread does, once; a second signal must not disturb the cleaning up after the first."""
        self.wanted.set()
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def watch(self, pipe: int) -> None:
        """Wait for a signal, whoever handles it, then give the process its grace."""
        with open(pipe, "rb", buffering=0) as signals:
            while not self.over.is_set() and (data := signals.read(64)):
                if {*data} & {*_SIGNALS}:
                    self.wanted.set()
                    self._end_after_grace()

    def _end_after_grace(self) -> None:
        # Nobody joins this thread: a process that ends in time takes it along.
        if not self.over.wait(GRACE):
            self.tell()
            end_embedded_server()
            os._exit(_FAILED)


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Answer SIGTERM and Ctrl-C in the block: an exception in the main thread, and soon the end of the process.

    A signal that the process was started to ignore (SIGINT of a background job) stays ignored. Outside of the main
    thread nothing is done: there Python takes no signals.

    Yields
    ------
    Stop
        Whether a signal came; then any exception out of the block is its consequence.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The kernel's handler writes here at once, even while Python waits inside C or Prefect has a handler of its own.
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {one: signal.getsignal(one) for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
    for one in handlers:
        signal.signal(one, stop.interrupt)
    threading.Thread(target=stop.watch, args=(reader,), name="stop", daemon=True).start()
    try:
        yield stop
    finally:
        # Told to stop, the process is about to end: until it has, the thread watches over it and signals do nothing.
        if not stop.wanted.is_set():
            stop.over.set()
            for one, handler in handlers.items():
                signal.signal(one, handler)
            signal.set_wakeup_fd(before)
            os.close(writer)


def end_embedded_server() -> None:
    """Kill the server that Prefect started for this process alone; who leaves in haste leaves nobody behind."""
    module = sys.modules.get("prefect.server.api.server")
    servers = getattr(getattr(module, "SubprocessASGIServer", None), "_instances", {})
    for server in list(servers.values()):
        if server.server_process is not None:
            server.server_process.kill()
