"""Flipped bits are found by ``maskmill verify``, withdrawn by ``--repair``, and the next run restores every byte."""

import json
import random
from pathlib import Path

import pytest

from tests.flows.conftest import Reference
from tests.flows.contents import contents
from tests.flows.launcher import Launcher

ARRAYS, RECORDS, TABLES = "stages/*/*.zarr/c/**/*", "*/*/commits/*.json", "*/*/**/*.parquet"


def flip(path: Path, random_: random.Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    path.write_bytes(data)


def victims(workspace: Path, random_: random.Random) -> list[Path]:
    """Twenty files of twenty units of work: array objects, commit records, tables.

    Two of one unit would not do: a record that cannot be read hides what it vouched for.
    """
    owners: dict[Path, Path] = {}
    for record in workspace.glob(RECORDS):
        objects = json.loads(record.read_bytes())["objects"]
        owners |= {record: record} | {record.parents[1] / name: record for name in objects}
    chosen: dict[Path, Path] = {}
    for pattern, count in ((ARRAYS, 8), (RECORDS, 6), (TABLES, 6)):
        files = sorted(path for path in workspace.glob(pattern) if path in owners)
        random_.shuffle(files)
        free = {owners[path]: path for path in files if owners[path] not in chosen}
        chosen |= dict(list(free.items())[:count])
    return list(chosen.values())


def verdict(output: str) -> set[str]:
    """Paths that ``verify`` calls damaged."""
    lines = [line.removeprefix("damaged") for line in output.splitlines() if line.startswith("damaged")]
    return {line.partition(": ")[0].strip() for line in lines}


@pytest.mark.slow
class TestDamage:
    def test_a_sound_workspace(self, maskmill: Launcher, reference: Reference) -> None:
        done = maskmill.run("verify", reference.workspace)
        assert done.status == 0, done.out
        assert done.out.endswith(" 0 damaged\n")

    @pytest.mark.parametrize("seed", range(2))
    def test_repair_restores_every_byte(
        self, maskmill: Launcher, reference: Reference, workspace: Path, seed: int
    ) -> None:
        random_ = random.Random(seed)
        chosen = victims(workspace, random_)
        for path in chosen:
            flip(path, random_)
        found = maskmill.run("verify", workspace)
        assert found.status == 1
        assert len(chosen) == 20
        assert verdict(found.out) == {str(path) for path in chosen}
        maskmill.run("verify", workspace, "--repair")
        done = maskmill.run("run", reference.config, "-w", workspace)
        assert done.status == 0, done.err
        assert contents(workspace) == contents(reference.workspace)
        assert maskmill.run("verify", workspace).status == 0

    @pytest.mark.parametrize(
        "pattern",
        [
            "stages/*/manifest.json",
            "stages/*/*.zarr/zarr.json",
            "models/*/weights.safetensors",
            "models/*/model.json",
            "reports/*/report.html",
            "run.json",
            "images.parquet",
            "stages/stage-*/images.parquet",
        ],
    )
    def test_every_other_kind_of_file(
        self, maskmill: Launcher, reference: Reference, workspace: Path, pattern: str
    ) -> None:
        random_ = random.Random(pattern)
        victim = random_.choice(sorted(workspace.glob(pattern)))
        flip(victim, random_)
        found = maskmill.run("verify", workspace, "--repair")
        assert found.status == 1
        # The workspace's own index is known by its staged copy: damage to that one makes both suspect.
        assert str(victim) in verdict(found.out)
        done = maskmill.run("run", reference.config, "-w", workspace)
        assert done.status == 0, done.err
        assert contents(workspace) == contents(reference.workspace)
        assert maskmill.run("verify", workspace).status == 0
