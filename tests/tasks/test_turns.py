import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tasks.turns
from tasks.turns import CPU, lock_path, turn

GPU = torch.device("cuda")
HOLDER = """
import sys, time
from types import SimpleNamespace
import torch
from tasks.turns import turn
torch.cuda.get_device_properties = lambda _device: SimpleNamespace(uuid="some")
with turn(torch.device("cuda")):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU by name, and locks that no other run knows."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tasks.turns.tempfile, "tempdir", None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="some"))


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process whose turn it is."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


class TestTurn:
    def test_smoke(self) -> None:
        with turn(GPU):
            assert lock_path(GPU).exists()

    def test_again_in_the_same_thread(self) -> None:
        with turn(GPU), turn(GPU):
            pass

    def test_a_cpu_is_shared(self, holder: subprocess.Popen[str]) -> None:
        with turn(CPU):
            assert holder.poll() is None

    def test_waits_for_a_process_and_is_told(
        self, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Told:
            def write(self, text: str) -> None:
                if "waiting for the GPU" in text:
                    # A process that is killed gives its turn back.
                    holder.kill()

        monkeypatch.setattr(tasks.turns, "PATIENCE", 0.2)
        monkeypatch.setattr(sys, "stderr", Told())
        began = time.monotonic()
        with turn(GPU):
            assert holder.wait() != 0
        assert time.monotonic() - began >= 0.2
        assert capsys.readouterr().out == ""


class TestLockPath:
    def test_one_file_for_a_gpu_and_a_user(self, tmp_path: Path) -> None:
        assert lock_path(GPU) == tmp_path / f"maskmill-{os.getuid()}-gpu-some.lock"
