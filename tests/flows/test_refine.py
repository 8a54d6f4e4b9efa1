"""An ordered list of refinement steps, through the command: label sets, rows, page, restart, and images that fail."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from torch import Tensor

from configs import load_config
from flows.resume import finished
from methods.refinement import pamr
from storage import keys
from storage.demo_data import make_demo
from storage.index import IGNORE
from storage.workspace import Workspace
from tasks import chain
from tasks.context import Run
from tasks.folders import name_masks
from tasks.refine import FAILURES, RefineWork, begin_masks
from tests.flows.conftest import settings
from tests.flows.contents import contents
from tests.flows.launcher import Launcher

STEPS: list[dict[str, Any]] = [
    {"step": "scg", "layers": ["S4", "S5"]},
    {"step": "pamr", "iterations": 2},
    {"step": "otsu"},
    {"step": "clean_up"},
]


def write(folder: Path, root: Path, steps: list[dict[str, Any]], **sections: Any) -> Path:
    """The configuration of a run with some steps."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**settings(root), "refine": steps, "report": {"overlays": 2}, **sections}))
    return path


def rows(workspace: Path) -> tuple[pd.DataFrame, str]:
    """Metric rows and page of the newest report."""
    report = max(workspace.glob("reports/*"), key=lambda path: (path / "report.html").stat().st_mtime_ns)
    return pq.ParquetFile(report / "metrics.parquet").read().to_pandas(), (report / "report.html").read_text()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images."""
    return make_demo(tmp_path_factory.mktemp("few") / "demo", images=12, size=64)


@pytest.fixture(scope="module")
def refined(maskmill: Launcher, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run with four steps."""
    folder = tmp_path_factory.mktemp("refine")
    done = maskmill.run("run", write(folder, few, STEPS), "-w", folder / "workspace")
    assert done.status == 0, done.err
    return folder


@pytest.mark.slow
class TestSteps:
    def test_every_step_is_measured(self, refined: Path) -> None:
        frame, page = rows(refined / "workspace")
        masks = frame[(frame["metric"] == "miou") & frame["threshold"].isna() & (frame["stage"] != "classifier")]
        floors = {"centred_box", "whole_image"}
        stages = masks[~masks["method"].isin(floors)].groupby(["method", "split"])["stage"].apply(list)
        assert len(stages) == 4
        assert all(found == ["cam", "scg", "pamr", "mask"] for found in stages)
        changes = frame[frame["metric"] == "miou_to_previous"]
        assert set(changes["stage"]) == {"scg", "pamr", "mask"}
        assert changes["value"].between(0, 1).all()
        assert "What each step of refinement does" in page
        assert "clean_up, mask" in page

    def test_a_step_more_redoes_only_itself(self, maskmill: Launcher, few: Path, refined: Path, tmp_path: Path) -> None:
        workspace = Path(shutil.copytree(refined / "workspace", tmp_path / "workspace"))
        before = {path.name for path in workspace.glob("stages/*")}
        more = [*STEPS[:2], {"step": "random_walk", "side": 16}, *STEPS[2:]]
        done = maskmill.run("run", write(tmp_path, few, more), "-w", workspace)
        assert done.status == 0, done.err
        made = sorted(path.name.split("-")[0] for path in workspace.glob("stages/*") if path.name not in before)
        # Two proposals: labels after the walk and after the clean-up, their counts and changes; boxes of the last only.
        assert made == sorted(["mask", "evaluate", "change"] * 4 + ["localize"] * 2)

    def test_kill_in_the_middle(self, maskmill: Launcher, few: Path, refined: Path, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        config = write(tmp_path, few, STEPS)
        died = maskmill.run("run", config, "-w", workspace, MASKMILL_DIE_AT="commit:9")
        assert died.status != 0
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err
        assert contents(workspace) == contents(refined / "workspace")


@pytest.mark.slow
class TestFailures:
    def test_an_image_that_fails_is_set_aside_with_the_steps_name(
        self, few: Path, refined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One step of the list is made to fail on one image; everything else is the real thing, in this process."""
        workspace = Workspace(Path(shutil.copytree(refined / "workspace", tmp_path / "workspace")))
        steps = [{"step": "pamr", "iterations": 1}, {"step": "otsu"}]
        run = Run(load_config(write(tmp_path, few, steps)), workspace)
        state = finished(run, ("stage", "classify", "propose"))
        assert state is not None
        name_masks(state)
        (_, proposal), sets = state.proposals[0], state.label_sets[0]
        for one in sets:
            basis = keys.mask_basis(run.config, state.index, proposal, one.steps)
            begin_masks(one.folder, basis, state.index, state.index_stage)
        victim = state.source().pixels(2).mean() / 255

        def failing(images: Tensor, masks: Tensor, **options: Any) -> Tensor:
            if abs(float(images.mean()) - victim) < 1e-6:
                raise ValueError("expected a kinder image")
            return pamr(images, masks, **options)

        monkeypatch.setattr(chain, "pamr", failing)
        RefineWork(run.config, state.index, state.source(), proposal, None, sets)(0)
        plain, refined_set = (state.label_store(one.folder) for one in sets)
        assert [one.stage for one in sets] == ["cam", "mask"]
        assert (refined_set.mask(2) == IGNORE).all()
        assert not (plain.mask(2) == IGNORE).all()
        assert not all((refined_set.mask(row) == IGNORE).all() for row in range(6))
        failures = sets[1].folder.shard_table(0, FAILURES).to_pylist()
        assert failures == [
            {"row": 2, "image_id": state.index.ids[2], "step": "pamr", "reason": "expected a kinder image"}
        ]
        assert not sets[0].folder.shard_table(0, FAILURES).num_rows
