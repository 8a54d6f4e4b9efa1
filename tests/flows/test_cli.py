"""The command line as a person meets it: exit statuses, refusals before any work, commands that only read."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from storage.index import read_index
from storage.labels import open_labels
from storage.workspace import Workspace
from tests.flows.conftest import Reference
from tests.flows.contents import contents, records
from tests.flows.launcher import PROJECT, Launcher

IMPORTS = """
import sys
from flows import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as left:
    assert not left.code, left.code
print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
HOLD = """
import sys
from pathlib import Path
from storage.workspace import Workspace
with Workspace(Path(sys.argv[1])).hold():
    print("held", flush=True)
    sys.stdin.read()
"""
# pycocotools decodes through an array protocol that numpy 2 finds dated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
HEAVY = {"torch", "prefect", "pandas", "numpy", "pyarrow", "zarr", "matplotlib", "timm"}


def every_file(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


class TestRun:
    def test_smoke(self, reference: Reference) -> None:
        assert list(reference.workspace.glob("reports/*/report.html"))

    def test_a_finished_run_answers_without_work(
        self, maskmill: Launcher, reference: Reference, workspace: Path
    ) -> None:
        before = records(workspace)
        # An address where nobody answers: nothing is left that would need Prefect.
        done = maskmill.run("run", reference.config, "-w", workspace, PREFECT_API_URL="http://127.0.0.1:9/api")
        assert done.status == 0, done.err
        assert "report:" in done.out
        assert records(workspace) == before

    def test_limit(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        done = maskmill.run("stage", reference.config, "-w", tmp_path / "w", "--limit", 5)
        assert done.status == 0, done.err
        index = read_index(tmp_path / "w" / "images.parquet")
        assert len(index) == 5
        assert set(index.splits) == {"train", "val"}

    def test_a_held_workspace_names_its_owner(self, maskmill: Launcher, reference: Reference, workspace: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-c", HOLD, str(workspace)]
        before = records(workspace)
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"held\n"
            second = maskmill.run("run", reference.config, "-w", workspace, "--set", "classifier.train.seed=9")
            status = maskmill.run("status", workspace)
            owner.communicate()
        assert second.status == 3
        assert f"held by pid {owner.pid} " in second.err
        assert f"pid {owner.pid} " in status.out
        assert records(workspace) == before
        assert maskmill.run("run", reference.config, "-w", workspace).status == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--set", "classifier.head=gapp"], "classifier.head"),
            (["--set", "refine=[{step: otsu, value: 1}]"], "refine"),
            (["--set", "colour=red"], "colour"),
            (["--set", "nonsense"], "section.key=value"),
            (["--limit", "0"], "--limit"),
            (["--limit", "many"], "many"),
            (["--no-such-option"], "--no-such-option"),
        ],
    )
    def test_before_any_work(
        self, maskmill: Launcher, reference: Reference, tmp_path: Path, arguments: list[str], told: str
    ) -> None:
        done = maskmill.run("run", reference.config, "-w", tmp_path / "workspace", *arguments)
        assert done.status == 2
        assert told in done.err + done.out
        assert not (tmp_path / "workspace").exists()

    @pytest.mark.parametrize(
        "command", [["run", "nowhere.yaml"], ["run", "preset:nowhere"], ["fly"], ["status", "nowhere"]]
    )
    def test_what_is_not_there(self, maskmill: Launcher, command: list[str]) -> None:
        done = maskmill.run(*command)
        assert done.status == 2
        assert command[-1].removeprefix("preset:") in done.err + done.out

    def test_absent_weights(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        override = f"classifier.weights={tmp_path}/none.safetensors"
        done = maskmill.run("run", reference.config, "-w", tmp_path / "workspace", "--set", override)
        assert done.status == 2
        assert "none.safetensors" in done.err

    def test_a_missing_data_root(self, maskmill: Launcher, write_config: Callable[..., Path], tmp_path: Path) -> None:
        done = maskmill.run("run", write_config(tmp_path / "nowhere"), "-w", tmp_path / "workspace")
        assert done.status == 1
        assert "nowhere" in done.err


class TestReading:
    @pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["presets"]])
    def test_answers_without_heavy_imports(self, arguments: list[str]) -> None:
        command = [sys.executable, "-c", IMPORTS, *arguments]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not HEAVY & set(json.loads(done.stderr.splitlines()[-1].replace("'", '"')))

    def test_plan_of_nothing_writes_nothing(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        done = maskmill.run("plan", reference.config, "-w", tmp_path / "workspace")
        assert done.status == 0, done.err
        assert "24 in train, val" in done.out
        assert "stage      1 to do, 0 cached" in done.out
        assert not (tmp_path / "workspace").exists()

    def test_plan_and_status_of_a_workspace_write_nothing(
        self, maskmill: Launcher, reference: Reference, workspace: Path
    ) -> None:
        before = every_file(workspace)
        plan = maskmill.run("plan", reference.config, "-w", workspace)
        assert plan.status == 0, plan.err
        assert plan.out.count("0 to do, 4 cached") == 4
        other = maskmill.run("plan", reference.config, "-w", workspace, "--set", "proposals.1.truncation=40")
        assert other.out.count("4 to do, 0 cached") == 2
        status = maskmill.run("status", workspace)
        assert status.status == 0, status.err
        assert "nobody" in status.out
        for folder in workspace.glob("stages/*"):
            assert folder.name in status.out
        assert every_file(workspace) == before

    def test_status_of_a_killed_run(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        maskmill.run("run", reference.config, "-w", workspace, MASKMILL_DIE_AT="epoch:1")
        status = maskmill.run("status", workspace)
        assert status.status == 0, status.err
        assert "in training" in status.out


class TestExport:
    def test_voc(self, maskmill: Launcher, workspace: Path, tmp_path: Path) -> None:
        store = open_labels(Workspace(workspace))
        done = maskmill.run("export", workspace, "--format", "voc", "--out", tmp_path / "voc")
        assert done.status == 0, done.err
        lines = (tmp_path / "voc" / "ids.csv").read_text().splitlines()[1:]
        files = dict(line.replace('"', "").split(",") for line in lines)
        assert files.keys() == set(store.index.ids)
        for row, image_id in enumerate(store.index.ids):
            with Image.open(tmp_path / "voc" / files[image_id]) as image:
                assert np.array_equal(np.asarray(image), store.mask(row))
        assert maskmill.run("export", workspace, "--format", "voc", "--out", tmp_path / "voc").status == 1

    def test_coco_of_one_split_and_proposal(self, maskmill: Launcher, workspace: Path, tmp_path: Path) -> None:
        run = Workspace(workspace).read_run()
        stage = Workspace(workspace).stage("mask", run["labels"][1].removeprefix("mask-"))
        store = open_labels(Workspace(workspace), stage)
        options = ["--format", "coco", "--out", tmp_path / "coco", "--labels", run["methods"][1], "--split", "val"]
        done = maskmill.run("export", workspace, *options)
        assert done.status == 0, done.err
        written = json.loads((tmp_path / "coco" / "instances.json").read_text())
        rows = [row for row, split in enumerate(store.index.splits) if split == "val"]
        assert [image["name"] for image in written["images"]] == [store.index.ids[row] for row in rows]
        for row, image in zip(rows, written["images"], strict=True):
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for one in written["annotations"]:
                if one["image_id"] == image["id"]:
                    mask[rle.decode(one["segmentation"]) > 0] = one["category_id"]
            assert np.array_equal(mask, store.mask(row))

    @pytest.mark.parametrize("wrong", [["--labels", "nowhere"], ["--split", "nowhere"], ["--format", "nowhere"]])
    def test_refusals(self, maskmill: Launcher, workspace: Path, tmp_path: Path, wrong: list[str]) -> None:
        options = [] if "--format" in wrong else ["--format", "voc"]
        done = maskmill.run("export", workspace, "--out", tmp_path / "out", *options, *wrong)
        assert done.status == 2
        assert "nowhere" in done.err + done.out
        assert not (tmp_path / "out").exists()


class TestWhole:
    def test_contents_of_a_copy_are_equal(self, reference: Reference, workspace: Path) -> None:
        assert contents(workspace) == contents(reference.workspace)
