"""How fast the command line answers: ``maskmill --help`` against an interpreter that does nothing.

``python -m benchmarks.cli_start``. Read: seconds are medians of ten, the promise is help below half a second; the ratio
tells what the imports of the command line add to Python's own start.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.common import interleaved, ratio, show

REPETITIONS = 10
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "maskmill --help": [sys.executable, "-m", "flows.cli", "--help"],
    "maskmill run --help": [sys.executable, "-m", "flows.cli", "run", "--help"],
}


def start(command: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and print."""
    calls: dict[str, Callable[[], object]] = {name: partial(start, command) for name, command in COMMANDS.items()}
    times = interleaved(calls, REPETITIONS)
    floor = times["python -c pass"]
    rows = [[name, statistics.median(took), max(took), ratio(took, floor)] for name, took in times.items()]
    show("start of the command line", ["command", "median s", "max s", "ratio"], rows)


if __name__ == "__main__":
    main()
