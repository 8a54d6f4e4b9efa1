import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.faults import IMAGE_VARIABLE, POINTS, VARIABLE, deadly_image, dying_point

PROJECT = Path(__file__).resolve().parents[2]
LOOP = """
from storage.faults import dying_point
for number in range(1, 5):
    dying_point("array")
    dying_point("commit")
    print(number, flush=True)
"""
READ = """
from storage.faults import deadly_image
for name in ("one", "two"):
    deadly_image(name)
    print(name, flush=True)
"""


class TestDeadlyImage:
    def test_nothing_happens_without_a_wish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
        deadly_image("one")

    def test_kills_whoever_reads_it(self) -> None:
        environment = {**os.environ, IMAGE_VARIABLE: "two", "PYTHONPATH": str(PROJECT)}
        done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("one\n", -signal.SIGKILL)


class TestDyingPoint:
    @pytest.mark.parametrize("point", POINTS)
    def test_nothing_happens_without_a_wish(self, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
        monkeypatch.delenv(VARIABLE, raising=False)
        dying_point(point)

    def test_another_point_is_passed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "report:1")
        dying_point("commit")

    @pytest.mark.parametrize(("wish", "lines"), [("commit:3", "1\n2\n"), ("array", ""), ("commit:9", "1\n2\n3\n4\n")])
    def test_kills_at_the_count(self, wish: str, lines: str) -> None:
        environment = {**os.environ, VARIABLE: wish, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run([sys.executable, "-c", LOOP], env=environment, capture_output=True, text=True)
        assert done.stdout == lines
        assert done.returncode == (0 if wish == "commit:9" else -signal.SIGKILL)

    def test_refuses_an_unknown_point(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "comit:1")
        with pytest.raises(ValueError, match=r"MASKMILL_DIE_AT: expected one of stage, infer.*saw 'comit:1'"):
            dying_point("commit")
