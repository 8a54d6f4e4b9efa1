"""The server and the worker of our own commands, and what they say where they cannot be."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from flows.server import SERVER, answers, free_port, server_environment
from tests.flows.conftest import poll
from tests.flows.launcher import PROJECT, Launcher
from tests.flows.services import site

HOOK = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock
block = CustomWebhookNotificationBlock(name="hook", url="{url}", form_data={{"text": "{{{{subject}}}}, {{{{body}}}}"}})
print(block.save("hook"))
"""


@contextlib.contextmanager
def receiver() -> Iterator[tuple[str, list[str]]]:
    """A web hook: its address, and the texts that came."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append(parse_qs(body)["text"][0])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()


class TestRefusals:
    def test_a_taken_port(self, maskmill: Launcher) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            done = maskmill.run("server", "--port", listener.getsockname()[1])
        assert done.status == 1
        assert "something else listens there" in done.err

    def test_a_server_that_is_there(self, maskmill: Launcher, prefect_server: str) -> None:
        done = maskmill.run("server", "--port", prefect_server.rpartition(":")[2].removesuffix("/api"))
        assert done.status == 1
        assert "a Prefect server answers there already" in done.err

    @pytest.mark.parametrize("port", [0, 65536, -1])
    def test_no_port(self, maskmill: Launcher, port: int) -> None:
        done = maskmill.run("server", f"--port={port}")
        assert done.status == 2
        assert "expected 1 to 65535" in done.err

    def test_a_worker_without_a_server(self, maskmill: Launcher) -> None:
        url = f"http://127.0.0.1:{free_port()}/api"
        done = maskmill.run("worker", PREFECT_API_URL=url)
        assert done.status == 1
        assert f"no Prefect server answers at {url}; start one with `maskmill server`" in done.err


class TestEnvironment:
    def test_prefect_knows_the_settings(self, tmp_path: Path) -> None:
        """A name that this version of Prefect does not know would be passed over without a word."""
        code = "from prefect.settings import get_current_settings as now; print(now().server.concurrency.lease_storage)"
        environment = {**server_environment(), "PREFECT_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == SERVER["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]

    def test_what_is_set_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (name,) = SERVER
        monkeypatch.setenv(name, "elsewhere")
        assert server_environment()[name] == "elsewhere"


@pytest.mark.slow
class TestServer:
    def test_smoke(self, tmp_path: Path) -> None:
        with site(tmp_path) as here:
            server = here.server()
            assert f"server     {here.url}" in server.text()
            assert f"export PREFECT_API_URL={here.url}, then maskmill deploy CONFIG" in server.text()
            worker = here.worker()
            poll(lambda: "started!" in worker.text())
            assert "of pool maskmill" in worker.text()
            worker.process.terminate()
            assert worker.process.wait(60) is not None
            server.process.terminate()
            server.process.wait(60)
            poll(lambda: not answers(here.url))

    def test_a_failed_night_is_told(self, tmp_path: Path) -> None:
        """The automation that the README names, as it is but for the receiver."""
        with site(tmp_path) as here, receiver() as (address, received):
            here.server()
            block = here.python("-c", HOOK.format(url=address)).strip()
            told = (PROJECT / "docs/automations/failed-night.yaml").read_text()
            (tmp_path / "told.yaml").write_text(told.replace("00000000-0000-0000-0000-000000000000", block))
            here.python("-m", "prefect", "automation", "create", "--from-file", tmp_path / "told.yaml")
            failed = "from flows.run import maskmill_flow; maskmill_flow({!r}, {!r}, return_state=True)"
            here.python("-c", failed.format("absent.yaml", str(tmp_path / "steel")))
            poll(lambda: received)
        (message,) = received
        assert message.startswith("maskmill: ")
        assert " Failed, " in message
        assert f"{tmp_path / 'steel'}: " in message
        assert "absent.yaml" in message
