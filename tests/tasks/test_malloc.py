import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from tasks.malloc import keep_memory

if sys.argv[1] == "keep":
    keep_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    assert torch.ones(12_000_000).numel() == 12_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
class TestKeepMemory:
    def test_blocks_are_faulted_in_once(self) -> None:
        """Page faults are counted, not timed: each of 30 fresh blocks of 48 MB has thousands."""
        faults = {}
        for mode in ("keep", "default"):
            done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
            faults[mode] = int(done.stdout)
        assert faults["keep"] < faults["default"] / 2
