"""Workers for runs, started from the command line."""

import sys
from pathlib import Path

import pytest

from configs import load_config
from flows.cli import FINISHED, REFUSED, main
from flows.cluster_commands import SlurmJobs, local_command, slurm_command, usage


def status(*arguments: str) -> object:
    """Exit status of a command."""
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    return left.value.code


class TestSlurm:
    def test_script(self, capsys: pytest.CaptureFixture[str]) -> None:
        asked = ["--cpus", "4", "--memory", "16GB", "--walltime", "02:30:00", "--queue", "long", "--account", "vision"]
        assert status("cluster", "slurm", "--workers", "8", *asked, "--dry-run") == FINISHED
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "#!/usr/bin/env bash"
        directives = ("-J maskmill", "-p long", "-A vision", "-n 1", "--cpus-per-task=4", "--mem=15G", "-t 02:30:00")
        assert [line for line in lines if line.startswith("#SBATCH")] == [f"#SBATCH {one}" for one in directives]
        # dask's own answer to a full memory would stop a worker that keeps what it has had.
        for name in ("TARGET", "SPILL", "PAUSE"):
            assert f"export DASK_DISTRIBUTED__WORKER__MEMORY__{name}=false" in lines
        command = next(line for line in lines if line.startswith(sys.executable))
        assert "-m distributed.cli.dask_worker tcp://SCHEDULER:8786" in command
        assert "--nthreads 1 " in command
        assert "--nanny " in command
        assert "--no-dashboard" in command
        assert "--resources" not in command
        assert "--gres" not in "".join(lines)

    def test_script_with_gpus(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert slurm_command(2, SlurmJobs(gpus=2, logs=tmp_path), 0, dry=True) == FINISHED
        script = capsys.readouterr().out
        assert "#SBATCH --gres=gpu:2\n" in script
        assert "--resources GPU=2" in script
        assert f"#SBATCH -o {tmp_path}/maskmill-%J.out" in script

    @pytest.mark.parametrize("jobs", [(0, SlurmJobs()), (1, SlurmJobs(cpus=0)), (1, SlurmJobs(gpus=-1))])
    def test_refusals(self, capsys: pytest.CaptureFixture[str], jobs: tuple[int, SlurmJobs]) -> None:
        assert slurm_command(*jobs, 0, dry=True) == REFUSED
        assert "refused: expected --workers and --cpus from 1" in capsys.readouterr().err


class TestLocal:
    def test_refuses_a_number_below_zero(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert local_command(-1, 0) == REFUSED
        assert "expected a number from 0, saw -1" in capsys.readouterr().err


class TestUsage:
    @pytest.mark.parametrize("gpus", [False, True])
    def test_a_run_understands_it(self, gpus: bool, tmp_path: Path) -> None:
        words = usage("tcp://10.0.0.1:8786", gpus=gpus).split(" ", 4)
        assert words[:4] == ["maskmill", "run", "CONFIG", "--set"]
        settings = [one.replace("'", "") for one in words[4].replace("{GPU: 1}", "{GPU:\t1}").split(" ")]
        config = load_config("preset:demo", [f"dataset.root={tmp_path}", *(one.replace("\t", " ") for one in settings)])
        assert config.runtime.address == "tcp://10.0.0.1:8786"
        assert config.runtime.resources.network == ({"GPU": 1} if gpus else {})
