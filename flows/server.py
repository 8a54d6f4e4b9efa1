"""Server and worker: Prefect's own, with the settings that scheduled runs of this project need.

Both replace the process that starts them, so that a service manager or a shell has one process to watch and to stop.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import NoReturn
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from flows.cli import FAILED, REFUSED
from flows.commands import quiet_prefect, say

HOST = "127.0.0.1"
PORT = 4200
POOL = "maskmill"
API = "PREFECT_API_URL"
SERVER = {
    # Kept in memory, the slot of a crashed run stays taken for as long as the server runs. On the file system it is
    # free after five minutes at the latest, as long as a run's last renewal holds.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def api_url() -> str:
    """Address of the server: that of the environment, else where ``maskmill server`` listens if nothing is said."""
    return os.environ.get(API) or f"http://{HOST}:{PORT}/api"


def answers(url: str) -> bool:
    """Whether a Prefect server says at this address that it is well."""
    try:
        with urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError, ValueError):
        return False


def need_server() -> str | None:
    """Address of the server; None, and a line that says so, if none answers."""
    url = api_url()
    if not answers(url):
        say(f"failed: no Prefect server answers at {url}; start one with `maskmill server`, or set {API}")
        return None
    return url


@contextlib.contextmanager
def use_server(url: str) -> Iterator[None]:
    """Have Prefect talk to this server, here and in the processes that it starts, whenever it was imported."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    os.environ[API] = url
    with temporary_settings({PREFECT_API_URL: url}):
        yield


def server_command(port: int) -> int:
    """Become a Prefect server on loopback; returns only if the port is taken."""
    if not 0 < port < 1 << 16:
        say(f"refused: --port: expected 1 to 65535, saw {port}")
        return REFUSED
    url = f"http://{HOST}:{port}/api"
    if _taken(port):
        known = "a Prefect server answers there already" if answers(url) else "something else listens there"
        say(f"failed: port {port} is taken, {known}; choose another with --port")
        return FAILED
    os.environ.update(server_environment())
    export = f"export {API}={url}, then " if port != PORT else ""
    print(f"server     {url} (in a few seconds; Ctrl-C ends it)")
    print(f"next       elsewhere: {export}maskmill deploy CONFIG --cron '0 2 * * *', and maskmill worker", flush=True)
    return _become(server_arguments(port))


def worker_command(pool: str) -> int:
    """Become a worker of a process pool; returns only if no server answers."""
    url = need_server()
    if url is None:
        return FAILED
    quiet_prefect()
    os.environ[API] = url
    # A worker that says nothing cannot be told from one that hangs; what its runs log is set by their deployment.
    os.environ["PREFECT_LOGGING_LEVEL"] = "INFO"
    print(f"worker     of pool {pool} at {urlsplit(url).netloc} (Ctrl-C ends it)", flush=True)
    return _become([sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"])


def server_arguments(port: int) -> list[str]:
    """Command line of a server on loopback."""
    start = ["server", "start", "--host", HOST, "--port", str(port), "--analytics-off"]
    return [sys.executable, "-m", "prefect", *start]


def server_environment() -> dict[str, str]:
    """Environment of a server: what is set already wins."""
    quiet_prefect()
    return {**SERVER, **os.environ}


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _become(command: list[str]) -> NoReturn:
    # A shell lets background jobs ignore Ctrl-C, which is what Prefect's worker makes of SIGTERM: it would never end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(command[0], command)
