"""Recursion through the command: rounds that learn from one another, where they end, restart, kills and plans."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from storage.demo_data import make_demo
from storage.index import read_index
from storage.labels import LabelStore, index_of
from storage.stages import StageFolder
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import settings
from tests.flows.contents import contents, records
from tests.flows.launcher import Launcher

UNET: dict[str, Any] = {
    "model": "unet",
    "width": 16,
    "optimise": {"epochs": 2, "batch_size": 4},
    "inference": {"gate": "labels"},
}
RECURSE: dict[str, Any] = {"rounds": 2, "stop": 0.0, "train": UNET}
ROUNDS = ["unet-first round 1", "unet-first round 2"]


@dataclass(frozen=True)
class Finished:
    """A finished recursion; nobody writes into its workspace."""

    data: Path
    workspace: Path
    refined: Path
    """The same chain up to its refined masks."""


def write(folder: Path, data: Path, *, truth: bool = True, **sections: Any) -> Path:
    """The configuration of a run with recursion."""
    path, chosen = folder / "config.yaml", settings(data)
    if not truth:
        del chosen["dataset"]["mask"]
    path.write_text(yaml.safe_dump({**chosen, "proposals": [{"method": "grad_cam"}], "recurse": RECURSE, **sections}))
    return path


def folders(workspace: Path, kind: str) -> list[Path]:
    """Folders of a kind of stage or model."""
    return sorted(workspace.glob(f"*/{kind}-*"))


def label_sets(workspace: Path) -> dict[str, StageFolder]:
    """Label sets of the last run by name."""
    run = Workspace(workspace).read_run()
    return {
        title: StageFolder(workspace / "stages" / name)
        for title, name in zip(run["methods"], run["labels"], strict=True)
    }


def metrics(workspace: Path, other_than: Path | None = None) -> tuple[pd.DataFrame, str]:
    """Metric rows and page of the only report, or of the only one that another workspace does not have."""
    known = {path.name for path in other_than.glob("reports/*")} if other_than else set()
    (report,) = [path for path in workspace.glob("reports/*") if path.name not in known]
    return pq.ParquetFile(report / "metrics.parquet").read().to_pandas(), (report / "report.html").read_text()


@pytest.fixture(scope="module")
def finished(maskmill: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two rounds on twelve images, undisturbed."""
    folder = tmp_path_factory.mktemp("recurse")
    data = make_demo(folder / "demo", images=12, size=64)
    config, workspace = write(folder, data), folder / "workspace"
    done = maskmill.run("refine", config, "-w", workspace)
    assert done.status == 0, done.err
    refined = Path(shutil.copytree(workspace, folder / "refined"))
    done = maskmill.run("recurse", config, "-w", workspace)
    assert done.status == 0, done.err
    assert len(folders(workspace, "change")) == 2
    assert not list(workspace.glob("reports/*"))
    assert not folders(workspace, "evaluate")
    done = maskmill.run("run", config, "-w", workspace)
    assert done.status == 0, done.err
    return Finished(data, workspace, refined)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished workspace."""
    return Path(shutil.copytree(finished.workspace, tmp_path / "workspace"))


@pytest.fixture
def run(maskmill: Launcher, finished: Finished, copied: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run another configuration on a copy of the finished workspace."""

    def run(command: str = "run", **sections: Any) -> Path:
        done = maskmill.run(command, write(tmp_path, finished.data, **sections), "-w", copied)
        assert done.status == 0, done.err
        return copied

    return run


@pytest.mark.slow
class TestRounds:
    def test_rows_and_page(self, finished: Finished) -> None:
        frame, page = metrics(finished.workspace)
        for metric in ("miou", "miou_to_previous", "fg_iou_pooled", "fg_iou_to_previous"):
            found = frame[(frame["metric"] == metric) & (frame["stage"] == "mask") & frame["method"].isin(ROUNDS)]
            assert found.groupby("split")["method"].apply(list).to_dict() == {"train": ROUNDS, "val": ROUNDS}, metric
            assert found["value"].between(0, 1).all()
        for title in ROUNDS:
            assert title in page
            assert f"Training of {title}" in page

    def test_folders(self, finished: Finished) -> None:
        workspace = finished.workspace
        assert [len(folders(workspace, kind)) for kind in ("segmenter", "predict", "change")] == [2, 2, 2]
        assert list(label_sets(workspace)) == ["grad_cam-S5", *ROUNDS]
        assert verify_workspace(Workspace(workspace))[1] == []

    def test_changes_are_to_the_round_before(self, finished: Finished) -> None:
        chain = [one.name for one in label_sets(finished.workspace).values()]
        found = [StageFolder(one).manifest["basis"] for one in folders(finished.workspace, "change")]
        pairs = {(one["before"], one["after"]) for one in found}
        assert pairs == set(pairwise(chain))

    def test_a_round_learns_from_the_round_before(self, run: Callable[..., Path], finished: Finished) -> None:
        first = {**UNET, "name": "by hand"}
        second = {**UNET, "name": "again by hand", "labels": "by hand"}
        workspace = run("segment", recurse=None, train=[first, second])
        # The same networks and masks under other names: nothing was trained.
        assert [one.name for one in folders(workspace, "segmenter")] == [
            one.name for one in folders(finished.workspace, "segmenter")
        ]
        known = label_sets(finished.workspace)
        found = label_sets(workspace)
        assert [found[title].name for title in ("by hand", "again by hand")] == [known[title].name for title in ROUNDS]

    def test_a_second_run_does_nothing(self, run: Callable[..., Path], copied: Path) -> None:
        before, known = records(copied), contents(copied)
        for command in ("run", "recurse"):
            run(command)
            assert records(copied) == before
            assert contents(copied) == known

    def test_more_rounds_go_on_from_the_last(self, run: Callable[..., Path], copied: Path) -> None:
        before = records(copied)
        run("recurse", recurse={**RECURSE, "rounds": 3})
        after = records(copied)
        assert {name: after[name] for name in before} == before
        made = sorted(name.split("/")[1].split("-")[0] for name in after.keys() - before.keys())
        assert made == ["change"] * 2 + ["predict"] * 2 + ["segmenter"]
        assert list(label_sets(copied))[-1] == "unet-first round 3"

    def test_fewer_rounds_leave_the_last_out(self, run: Callable[..., Path], finished: Finished) -> None:
        workspace = run(recurse={**RECURSE, "rounds": 1})
        assert len(folders(workspace, "segmenter")) == 2
        assert list(label_sets(workspace)) == ["grad_cam-S5", ROUNDS[0]]
        frame, page = metrics(workspace, finished.workspace)
        assert ROUNDS[0] in set(frame["method"])
        assert ROUNDS[1] not in set(frame["method"])
        assert ROUNDS[1] not in page

    def test_a_round_that_changes_little_is_the_last(
        self, maskmill: Launcher, finished: Finished, tmp_path: Path
    ) -> None:
        workspace = Path(shutil.copytree(finished.refined, tmp_path / "workspace"))
        config = write(tmp_path, finished.data, recurse={**RECURSE, "stop": 1.0})
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err
        assert list(label_sets(workspace)) == ["grad_cam-S5", ROUNDS[0]]
        assert [len(folders(workspace, kind)) for kind in ("segmenter", "predict", "change")] == [1, 1, 1]
        assert "No further round was needed" in metrics(workspace)[1]
        before = records(workspace)
        assert maskmill.run("run", config, "-w", workspace).status == 0
        assert records(workspace) == before

    def test_looks_at_no_ground_truth(self, run: Callable[..., Path], finished: Finished) -> None:
        workspace = run(truth=False)
        # The same rounds, from the same networks.
        assert len(folders(workspace, "segmenter")) == 2
        names = {title: one.name for title, one in label_sets(workspace).items()}
        assert names == {title: one.name for title, one in label_sets(finished.workspace).items()}
        frame, page = metrics(workspace, finished.workspace)
        found = frame[frame["method"].isin(ROUNDS)]
        assert set(found["metric"]) == {"miou_to_previous", "fg_iou_to_previous"}
        assert found.groupby(["split", "metric"])["method"].apply(list).map(lambda one: one == ROUNDS).all()
        assert "Rounds of recursion" in page

    def test_from_a_network_of_train(self, run: Callable[..., Path]) -> None:
        first = {**UNET, "name": "first", "width": 24}
        workspace = run(
            "recurse", train=[first], recurse={**RECURSE, "rounds": 1, "train": {**UNET, "labels": "first"}}
        )
        assert list(label_sets(workspace)) == ["grad_cam-S5", "first", "unet-first round 1"]
        known = label_sets(workspace)
        changes = [StageFolder(one).manifest["basis"] for one in folders(workspace, "change")]
        wanted = (known["first"].name, known["unet-first round 1"].name)
        assert wanted in {(one["before"], one["after"]) for one in changes}

    def test_export_by_title(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        out = tmp_path / "out"
        where = ("--out", out, "--labels", ROUNDS[1], "--format", "voc")
        done = maskmill.run("export", finished.workspace, *where)
        assert done.status == 0, done.err
        stage = label_sets(finished.workspace)[ROUNDS[1]]
        store = LabelStore(stage, read_index(index_of(Workspace(finished.workspace), stage)))
        exported = [np.asarray(Image.open(path)) for path in out.rglob("*.png")]
        assert len(exported) == 12
        assert all(any(np.array_equal(mask, one) for one in exported) for _, mask in store)


@pytest.mark.slow
class TestPlan:
    def plan(self, maskmill: Launcher, config: Path, workspace: Path) -> list[str]:
        known = contents(workspace)
        done = maskmill.run("plan", config, "-w", workspace)
        assert done.status == 0, done.err
        assert contents(workspace) == known, "a plan writes nothing"
        return [" ".join(line.split()) for line in done.out.splitlines() if line.startswith("recurse")]

    def test_before(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        first, rest = self.plan(maskmill, write(tmp_path, finished.data), finished.refined)
        assert first.startswith("recurse to do (segmenter-")
        assert first.endswith(f"{ROUNDS[0]}, its masks depend on it: 2 shards")
        assert rest == "recurse up to 1 more rounds, unless one changes at most 0 of the pixels"

    def test_after(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        lines = self.plan(maskmill, write(tmp_path, finished.data), finished.workspace)
        run, sets = Workspace(finished.workspace).read_run(), label_sets(finished.workspace)
        known = []
        for model, title in zip(run["segmenters"], ROUNDS, strict=True):
            known += [f"recurse cached ({model})", f"recurse 0 to do, 2 cached ({sets[title].name}, {title})"]
        assert lines == known

    # A round: two epochs, two shards of masks, two of changes.
    @pytest.mark.parametrize(
        ("point", "known"),
        [
            (
                "epoch:1",
                ["recurse to resume", "recurse up to 1 more rounds, unless one changes at most 0 of the pixels"],
            ),
            ("infer:2", ["recurse cached", "recurse 1 to do, 1 cached", "recurse up to 1 more rounds, unless"]),
            ("infer:4", ["recurse cached", "recurse 0 to do, 2 cached", "recurse up to 1 more rounds, unless"]),
            ("epoch:3", ["recurse cached", "recurse 0 to do, 2 cached", "recurse to resume"]),
        ],
    )
    def test_half_way(
        self, maskmill: Launcher, finished: Finished, tmp_path: Path, point: str, known: list[str]
    ) -> None:
        workspace = Path(shutil.copytree(finished.refined, tmp_path / "workspace"))
        # One thread: of two shards the second is the one that is lost.
        config = write(tmp_path, finished.data, runtime={**settings(finished.data)["runtime"], "workers": 1})
        died = maskmill.run("recurse", config, "-w", workspace, MASKMILL_DIE_AT=point)
        assert died.status == -signal.SIGKILL, died.err
        lines = self.plan(maskmill, config, workspace)
        assert [line[: len(one)] for line, one in zip(lines, known, strict=False)] == known


@pytest.mark.slow
class TestKill:
    # In the first round and in the second: in a training, in its masks, in what they changed.
    @pytest.mark.parametrize("point", ["epoch:2", "infer:2", "infer:3", "epoch:3", "array:4", "infer:8"])
    def test_at_a_point(self, maskmill: Launcher, finished: Finished, tmp_path: Path, point: str) -> None:
        workspace = Path(shutil.copytree(finished.refined, tmp_path / "workspace"))
        config = write(tmp_path, finished.data)
        died = maskmill.run("run", config, "-w", workspace, MASKMILL_DIE_AT=point)
        assert died.status == -signal.SIGKILL, died.err
        before = records(workspace)
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err
        after = records(workspace)
        assert {name: after[name] for name in before} == before, "a committed unit was done again"
        assert contents(workspace) == contents(finished.workspace)
        assert verify_workspace(Workspace(workspace))[1] == []


@pytest.mark.slow
class TestBadInput:
    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"split": ["nowhere"]}, "recurse: train: split: expected one of train, val, saw 'nowhere'"),
            ({"backbone": "resnet999"}, "recurse: train: "),
            ({"labels": "ground_truth"}, "train.labels: expected masks to begin with, saw ground_truth"),
            ({"labels": "nothing"}, "recurse: train.labels: expected one of grad_cam-S5, saw 'nothing'"),
        ],
    )
    def test_refused_before_anything_is_trained(
        self, maskmill: Launcher, finished: Finished, tmp_path: Path, wrong: dict[str, Any], told: str
    ) -> None:
        config = write(tmp_path, finished.data, recurse={**RECURSE, "train": {**UNET, **wrong}})
        done = maskmill.run("recurse", config, "-w", tmp_path / "workspace")
        assert done.status == 2, done.err
        assert told in done.err
        assert "Traceback" not in done.err
        assert not list((tmp_path / "workspace").glob("models/*"))

    def test_a_loss_that_is_not_finite_names_the_round(
        self, maskmill: Launcher, finished: Finished, tmp_path: Path
    ) -> None:
        workspace = Path(shutil.copytree(finished.refined, tmp_path / "workspace"))
        optimise = {"epochs": 3, "batch_size": 16, "learning_rate": 1e30}
        config = write(tmp_path, finished.data, recurse={**RECURSE, "train": {**UNET, "optimise": optimise}})
        done = maskmill.run("recurse", config, "-w", workspace)
        assert done.status == 1
        assert "epoch 2, step 1: expected a finite loss, saw" in done.err
        assert "recurse: train: unet-first round 1: optimise.learning_rate" in done.err
        assert "Traceback" not in done.err
