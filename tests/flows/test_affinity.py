"""Affinity networks and walked maps through the command: results, restart, kills, other walks, and what goes wrong."""

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from storage.demo_data import make_demo
from storage.models import HISTORY
from storage.stages import FACTS, StageFolder
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tasks.propose import SCORE
from tests.flows.conftest import settings
from tests.flows.contents import contents, records
from tests.flows.launcher import Launcher, Running

AFFINITY: dict[str, Any] = {
    "model": "affinity",
    "proposal": "grad_cam-S5",
    "radius": 4,
    "optimise": {"epochs": 2, "batch_size": 4},
}
TITLE = "affinity-grad_cam-S5"


@dataclass(frozen=True)
class Finished:
    """A finished chain; nobody writes into its workspace."""

    data: Path
    workspace: Path
    proposed: Path
    """The same chain up to its proposals."""


def write(folder: Path, data: Path, *train: dict[str, Any], **sections: Any) -> Path:
    """The configuration of a run with affinity networks."""
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({**settings(data), "proposals": [{"method": "grad_cam"}], "train": list(train), **sections})
    )
    return path


def walked_folder(workspace: Path) -> StageFolder:
    """Folder of the walked maps: the one proposal that is not made of the classifier alone."""
    (found,) = [one for one in workspace.glob("stages/propose-*") if not (one / "logits").exists()]
    return StageFolder(found)


@pytest.fixture(scope="module")
def finished(maskmill: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The chain on twelve images, undisturbed."""
    folder = tmp_path_factory.mktemp("affinity")
    data = make_demo(folder / "demo", images=12, size=64)
    config, workspace = write(folder, data, AFFINITY), folder / "workspace"
    done = maskmill.run("propose", config, "-w", workspace)
    assert done.status == 0, done.err
    proposed = Path(shutil.copytree(workspace, folder / "proposed"))
    done = maskmill.run("run", config, "-w", workspace)
    assert done.status == 0, done.err
    return Finished(data, workspace, proposed)


@pytest.mark.slow
class TestChain:
    def test_rows_and_page(self, finished: Finished) -> None:
        (report,) = finished.workspace.glob("reports/*")
        frame: pd.DataFrame = pq.ParquetFile(report / "metrics.parquet").read().to_pandas()
        for metric in ("miou", "px_ap"):
            found = frame[frame["metric"] == metric]
            assert {"grad_cam-S5", TITLE} <= set(found["method"]), metric
            assert found["value"].between(0, 1).all()
        page = (report / "report.html").read_text()
        assert TITLE in page
        assert f"Training of {TITLE}" in page

    def test_folders(self, finished: Finished) -> None:
        workspace = finished.workspace
        (model,) = workspace.glob("models/decoder-*")
        history = pq.ParquetFile(model / HISTORY).read().to_pandas()
        assert history.columns.tolist() == ["epoch", "loss", "background", "foreground", "different"]
        assert len(history) == 2
        assert [len(list(workspace.glob(f"stages/{kind}-*"))) for kind in ("propose", "mask")] == [2, 2]
        assert verify_workspace(Workspace(workspace))[1] == []

    def test_walked_maps_have_the_pairs_of_the_proposal(self, finished: Finished) -> None:
        walked = walked_folder(finished.workspace)
        (proposal,) = [one for one in finished.workspace.glob("stages/propose-*") if (one / "logits").exists()]
        names = ["row", "class_id", "pair", "score"]
        assert walked.table(FACTS, names).equals(StageFolder(proposal).table(FACTS, names))
        assert walked.spec(SCORE).item == (16, 16)

    def test_a_second_run_does_nothing(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        workspace = Path(shutil.copytree(finished.workspace, tmp_path / "workspace"))
        before, known = records(workspace), contents(workspace)
        config = write(tmp_path, finished.data, AFFINITY)
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err
        assert records(workspace) == before
        assert contents(workspace) == known
        done = maskmill.run("plan", config, "-w", workspace)
        assert done.status == 0, done.err
        assert f"0 to do, 2 cached ({walked_folder(workspace).name}, {TITLE})" in done.out

    def test_another_walk_needs_no_other_training(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        workspace = Path(shutil.copytree(finished.workspace, tmp_path / "workspace"))
        shorter = {**AFFINITY, "name": "shorter", "walk": {"times": 2}}
        done = maskmill.run("run", write(tmp_path, finished.data, AFFINITY, shorter), "-w", workspace)
        assert done.status == 0, done.err
        assert len(list(workspace.glob("models/decoder-*"))) == 1
        assert len(list(workspace.glob("stages/propose-*"))) == 3


@pytest.mark.slow
class TestKill:
    @pytest.mark.parametrize("point", ["epoch:1", "epoch:2"])
    def test_at_the_end_of_an_epoch(self, maskmill: Launcher, finished: Finished, tmp_path: Path, point: str) -> None:
        workspace = Path(shutil.copytree(finished.proposed, tmp_path / "workspace"))
        config = write(tmp_path, finished.data, AFFINITY)
        died = maskmill.run("run", config, "-w", workspace, MASKMILL_DIE_AT=point)
        assert died.status == -signal.SIGKILL, died.err
        assert len(list(workspace.glob("models/decoder-*/checkpoint.pt"))) == 1
        self.finish(maskmill, finished, config, workspace)

    # The shards of the walked maps: before they are written, with an array but no facts, before the commit record.
    @pytest.mark.parametrize("point", ["infer:2", "array:1", "facts:2"])
    def test_while_maps_walk(self, maskmill: Launcher, finished: Finished, tmp_path: Path, point: str) -> None:
        workspace = Path(shutil.copytree(finished.proposed, tmp_path / "workspace"))
        config = write(tmp_path, finished.data, AFFINITY)
        died = maskmill.run("train", config, "-w", workspace, MASKMILL_DIE_AT=point)
        assert died.status == -signal.SIGKILL, died.err
        assert list(workspace.glob("models/decoder-*/weights.safetensors"))
        self.finish(maskmill, finished, config, workspace)

    def finish(self, maskmill: Launcher, finished: Finished, config: Path, workspace: Path) -> None:
        """Resume a killed run and compare it with the undisturbed one."""
        before = records(workspace)
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err
        after = records(workspace)
        assert {name: after[name] for name in before} == before, "a committed unit was done again"
        assert contents(workspace) == contents(finished.workspace)
        assert verify_workspace(Workspace(workspace))[1] == []


@pytest.mark.slow
class TestBadInput:
    def train(self, maskmill: Launcher, finished: Finished, folder: Path, **changes: Any) -> tuple[Running, Path]:
        """Train from finished proposals with a changed section."""
        workspace = Path(shutil.copytree(finished.proposed, folder / "workspace"))
        config = write(folder, finished.data, {**AFFINITY, **changes})
        return maskmill.run("train", config, "-w", workspace), workspace

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"radius": 10}, "expected a grid of at least 10 x 19 for pairs within radius 10, got 16 x 16"),
            ({"layers": ["S9"]}, "S9"),
            ({"split": ["nowhere"]}, "split: expected one of train, val, saw 'nowhere'"),
            ({"resize": 32}, "resize: expected at least classifier.input_size, 64, saw 32"),
            ({"proposal": "cam"}, "proposal: expected one of grad_cam-S5, saw 'cam'"),
        ],
    )
    def test_refused_before_anything_is_trained(
        self, maskmill: Launcher, finished: Finished, tmp_path: Path, changes: dict[str, Any], told: str
    ) -> None:
        done, workspace = self.train(maskmill, finished, tmp_path, **changes)
        assert done.status == 2, done.err
        assert told in done.err
        assert not list(workspace.glob("models/decoder-*"))

    def test_a_loss_that_is_not_finite(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        optimise = {"epochs": 3, "batch_size": 16, "learning_rate": 1e38}
        done, workspace = self.train(maskmill, finished, tmp_path, optimise=optimise)
        assert done.status == 1
        assert f"lower train: {TITLE}: optimise.learning_rate" in done.err
        assert "Traceback" not in done.err
        assert not list(workspace.glob("models/decoder-*/weights.safetensors"))
