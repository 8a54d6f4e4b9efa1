"""Networks that learn masks, through the command: rows, restart, kills, plans, exports, and what goes wrong."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from storage.checkpoints import load_checkpoint
from storage.demo_data import make_demo
from storage.index import read_index
from storage.labels import LabelStore, index_of
from storage.models import HISTORY, WEIGHTS
from storage.stages import FACTS, StageFolder
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import settings
from tests.flows.contents import contents, records
from tests.flows.launcher import Launcher, Running

OPTIMISE = {"epochs": 2, "batch_size": 4}
UNET: dict[str, Any] = {"model": "unet", "width": 16, "optimise": OPTIMISE}
TWIN: dict[str, Any] = {**UNET, "name": "twin", "inference": {"gate": "labels", "scales": [1.0, 0.5], "pamr": True}}
CEILING: dict[str, Any] = {
    **UNET,
    "model": "deeplabv3plus",
    "labels": "ground_truth",
    "inference": {"gate": "scores"},
}
RECURSEED: dict[str, Any] = {
    "model": "recurseed",
    "width": 16,
    "start": 0,
    "mix": {"start": 1},
    "optimise": {**OPTIMISE, "learning_rate": 0.01},
}
LEARNS: dict[str, Any] = {**UNET, "labels": "recurseed-epm", "confidence": True}
CHAIN = [UNET, TWIN, CEILING, RECURSEED, LEARNS]
CEILING_TITLE = "deeplabv3plus-ground_truth"
TITLES = ["unet-first", "twin", CEILING_TITLE, "recurseed-epm", "unet-recurseed-epm"]


@dataclass(frozen=True)
class Finished:
    """A finished chain; nobody writes into its workspace."""

    data: Path
    workspace: Path
    refined: Path
    """The same chain up to its refined masks, without a network that learned from them."""
    seconds: float
    """How long these networks took from there."""


def write(folder: Path, data: Path, *train: dict[str, Any], **sections: Any) -> Path:
    """The configuration of a run with networks that predict masks."""
    path = folder / "config.yaml"
    proposals = [{"method": "grad_cam"}]
    path.write_text(yaml.safe_dump({**settings(data), "proposals": proposals, "train": list(train), **sections}))
    return path


def folders(workspace: Path, kind: str) -> list[Path]:
    """Folders of a kind of stage or model."""
    return sorted(workspace.glob(f"*/{kind}-*"))


def predictions(workspace: Path) -> dict[str, LabelStore]:
    """Predicted label sets of the last run by name."""
    run = Workspace(workspace).read_run()
    found = {
        title: StageFolder(workspace / "stages" / name)
        for title, name in zip(run["methods"], run["labels"], strict=True)
        if name.startswith("predict-")
    }
    return {
        title: LabelStore(stage, read_index(index_of(Workspace(workspace), stage))) for title, stage in found.items()
    }


def rows(workspace: Path) -> tuple[pd.DataFrame, str]:
    """Metric rows and page of the only report."""
    (report,) = workspace.glob("reports/*")
    frame: pd.DataFrame = pq.ParquetFile(report / "metrics.parquet").read().to_pandas()
    return frame, (report / "report.html").read_text()


@pytest.fixture(scope="module")
def finished(maskmill: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The chain on twelve images, undisturbed."""
    folder = tmp_path_factory.mktemp("segment")
    data = make_demo(folder / "demo", images=12, size=64)
    config, workspace = write(folder, data, *CHAIN), folder / "workspace"
    done = maskmill.run("refine", config, "-w", workspace)
    assert done.status == 0, done.err
    refined = Path(shutil.copytree(workspace, folder / "refined"))
    began = time.monotonic()
    done = maskmill.run("segment", config, "-w", workspace)
    assert done.status == 0, done.err
    seconds = time.monotonic() - began
    assert not list(workspace.glob("reports/*"))
    assert not folders(workspace, "evaluate")
    done = maskmill.run("run", config, "-w", workspace)
    assert done.status == 0, done.err
    return Finished(data, workspace, refined, seconds)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished workspace."""
    return Path(shutil.copytree(finished.workspace, tmp_path / "workspace"))


@pytest.mark.slow
class TestChain:
    def test_rows_and_page(self, finished: Finished) -> None:
        frame, page = rows(finished.workspace)
        found = frame[(frame["metric"] == "miou") & (frame["stage"] == "mask") & frame["method"].isin(TITLES)]
        assert found.groupby("split")["method"].apply(list).to_dict() == {"train": TITLES, "val": TITLES}
        assert found["value"].between(0, 1).all()
        assert set(found["threshold_source"]) == {"fixed"}
        assert found.groupby("split")["images"].first().sum() == 12
        for title in TITLES:
            metrics = set(frame[(frame["method"] == title)]["metric"])
            assert {"miou", "miou_foreground", "iou", "fg_iou_pooled", "fg_iou_per_image", "f1"} <= metrics
            assert title in page
            assert f"Training of {title}" in page

    def test_folders(self, finished: Finished) -> None:
        workspace = finished.workspace
        assert [len(folders(workspace, kind)) for kind in ("segmenter", "predict", "mask")] == [4, 5, 1]
        assert list(predictions(workspace)) == TITLES
        assert not list(workspace.glob("models/*/checkpoint.pt"))
        assert verify_workspace(Workspace(workspace))[1] == []

    def test_networks_that_differ_in_inference_share_a_model(self, finished: Finished) -> None:
        workspace = finished.workspace
        names = Workspace(workspace).read_run()["segmenters"]
        assert len(names) == 5
        assert names[0] == names[1]
        assert len(set(names)) == 4
        plain, twin = (predictions(workspace)[title] for title in TITLES[:2])
        assert plain.folder != twin.folder
        assert any((plain.mask(row) != twin.mask(row)).any() for row in range(12))

    def test_gates(self, finished: Finished) -> None:
        found = predictions(finished.workspace)
        index = found["twin"].index
        for title in ("twin", "recurseed-epm"):
            for row, mask in found[title]:
                assert set(np.unique(mask).tolist()) <= {0, *index.class_ids[row]}, title

    def test_history_has_every_term(self, finished: Finished) -> None:
        columns = [
            pq.ParquetFile(model / HISTORY).read().to_pandas() for model in folders(finished.workspace, "segmenter")
        ]
        assert all(len(one) == 2 for one in columns)
        parts = ["classification", "segmentation", "reconstruction"]
        names = [set(one.columns) - {"epoch"} for one in columns]
        assert sorted(map(len, names)) == [1, 1, 1, 7]
        assert max(names, key=len) == {"loss", *parts, *(f"mix_{name}" for name in parts)}

    def test_facts_and_confidence(self, finished: Finished) -> None:
        for title, store in predictions(finished.workspace).items():
            frame = store.folder.table(FACTS).to_pandas()
            assert frame["share"].between(0, 1).all(), title
            assert frame["confidence"].between(1 / 5 - 0.01, 1).all(), title
            shown = {row: set(np.unique(mask).tolist()) - {0} for row, mask in store}
            known = {(row, k) for row in shown for k in shown[row] | set(store.index.class_ids[row])}
            assert set(zip(frame["row"], frame["class_id"], strict=True)) == known

    def test_a_second_run_does_nothing(
        self, maskmill: Launcher, finished: Finished, copied: Path, tmp_path: Path
    ) -> None:
        before, known = records(copied), contents(copied)
        config = write(tmp_path, finished.data, *CHAIN)
        for command in ("run", "segment"):
            done = maskmill.run(command, config, "-w", copied)
            assert done.status == 0, done.err
            assert records(copied) == before
            assert contents(copied) == known

    def test_another_inference_predicts_again_and_trains_nothing(
        self, maskmill: Launcher, finished: Finished, copied: Path, tmp_path: Path
    ) -> None:
        before = records(copied)
        other = {**UNET, "name": "other", "inference": {"flip": False}}
        done = maskmill.run("run", write(tmp_path, finished.data, *CHAIN, other), "-w", copied)
        assert done.status == 0, done.err
        made = {name.split("/")[1].split("-")[0] for name in records(copied).keys() - before.keys()}
        assert made <= {"predict", "evaluate"} | {path.name for path in copied.glob("reports/*")}
        assert len(folders(copied, "segmenter")) == 4
        assert len(folders(copied, "predict")) == 6

    def test_other_masks_are_another_training(
        self, maskmill: Launcher, finished: Finished, copied: Path, tmp_path: Path
    ) -> None:
        refine = [{"step": "otsu"}, {"step": "clean_up"}]
        done = maskmill.run("segment", write(tmp_path, finished.data, *CHAIN, refine=refine), "-w", copied)
        assert done.status == 0, done.err
        # Of the first proposal's masks alone: not the ceiling, and nothing that begins with image-level labels.
        assert len(folders(copied, "segmenter")) == 5

    def test_in_two_processes(self, maskmill: Launcher, finished: Finished, copied: Path, tmp_path: Path) -> None:
        shared = {**UNET, "name": "shared", "optimise": {"epochs": 2, "batch_size": 4, "processes": 2}}
        done = maskmill.run("segment", write(tmp_path, finished.data, *CHAIN, shared), "-w", copied)
        assert done.status == 0, done.err
        assert list(predictions(copied)) == [*TITLES, "shared"]
        assert len(folders(copied, "segmenter")) == 5

    def test_export_by_title(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        for title, store in predictions(finished.workspace).items():
            out = tmp_path / title
            done = maskmill.run("export", finished.workspace, "--out", out, "--labels", title, "--format", "voc")
            assert done.status == 0, done.err
            files = sorted(out.rglob("*.png"))
            assert len(files) == 12
            exported = {path.stem: np.asarray(Image.open(path)) for path in files}
            for row, mask in store:
                found = [one for name, one in exported.items() if Path(store.index.ids[row]).stem in name]
                assert any(np.array_equal(one, mask) for one in found)

    def test_export_of_an_unknown_title(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        where = ("--out", tmp_path / "out", "--labels", "nothing")
        done = maskmill.run("export", finished.workspace, *where, "--format", "voc")
        assert done.status == 2
        assert "unet-recurseed-epm" in done.err


@pytest.mark.slow
class TestWithoutGroundTruth:
    def test_everything_but_scores(self, maskmill: Launcher, finished: Finished, copied: Path, tmp_path: Path) -> None:
        """Nothing that is learned looks at the ground truth: without it the same networks and masks come about."""
        dataset = settings(finished.data)["dataset"]
        dataset = {name: dataset[name] for name in dataset if name != "mask"}
        train = [one for one in CHAIN if one is not CEILING]
        known = {title: store.folder.name for title, store in predictions(copied).items()}
        before = records(copied)
        done = maskmill.run("run", write(tmp_path, finished.data, *train, dataset=dataset), "-w", copied)
        assert done.status == 0, done.err
        titles = [title for title in TITLES if title != CEILING_TITLE]
        found = {title: store.folder.name for title, store in predictions(copied).items()}
        assert found == {title: known[title] for title in titles}
        made = {name.split("/")[0] for name in records(copied).keys() - before.keys()}
        assert "models" not in made
        (report,) = {path.name for path in copied.glob("reports/*")} - {
            path.name for path in finished.workspace.glob("reports/*")
        }
        frame = pq.ParquetFile(copied / "reports" / report / "metrics.parquet").read().to_pandas()
        assert not frame["method"].isin(TITLES).any()
        page = (copied / "reports" / report / "report.html").read_text()
        assert all(title in page for title in titles)


@pytest.mark.slow
class TestPlan:
    def plan(self, maskmill: Launcher, config: Path, workspace: Path) -> list[str]:
        known = contents(workspace)
        done = maskmill.run("plan", config, "-w", workspace)
        assert done.status == 0, done.err
        assert contents(workspace) == known, "a plan writes nothing"
        return [" ".join(line.split()) for line in done.out.splitlines() if line.startswith("segment")]

    def test_before(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        *lines, last = self.plan(maskmill, write(tmp_path, finished.data, *CHAIN), finished.refined)
        for line, title in zip(lines, TITLES[:-1], strict=True):
            assert line.startswith("segment to do (segmenter-")
            assert line.endswith(f"{title}, its masks depend on it: 2 shards")
        assert last == "segment unet-recurseed-epm, learns what recurseed-epm will predict"

    def test_after(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        lines = self.plan(maskmill, write(tmp_path, finished.data, *CHAIN), finished.workspace)
        run = Workspace(finished.workspace).read_run()
        known = []
        for model, (title, store) in zip(run["segmenters"], predictions(finished.workspace).items(), strict=True):
            known += [f"segment cached ({model})", f"segment 0 to do, 2 cached ({store.folder.name}, {title})"]
        assert lines == known

    def test_half_way(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        workspace = Path(shutil.copytree(finished.refined, tmp_path / "workspace"))
        config = write(tmp_path, finished.data, *CHAIN)
        died = maskmill.run("segment", config, "-w", workspace, MASKMILL_DIE_AT="epoch:1")
        assert died.status == -signal.SIGKILL
        line, *_ = self.plan(maskmill, config, workspace)
        assert line.startswith("segment to resume (segmenter-")
        # One thread: the second of the first network's shards is the one that is lost.
        one_by_one = write(
            tmp_path, finished.data, *CHAIN, runtime={**settings(finished.data)["runtime"], "workers": 1}
        )
        died = maskmill.run("segment", one_by_one, "-w", workspace, MASKMILL_DIE_AT="infer:2")
        assert died.status == -signal.SIGKILL
        lines = self.plan(maskmill, config, workspace)
        assert [line.split(" (")[0] for line in lines[:2]] == ["segment cached", "segment 1 to do, 1 cached"]
        assert "unet-first)" in lines[1]


@pytest.mark.slow
class TestKill:
    def finish(self, maskmill: Launcher, finished: Finished, config: Path, workspace: Path) -> None:
        """Resume a killed run and compare it with the undisturbed one."""
        before = records(workspace)
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err
        after = records(workspace)
        assert {name: after[name] for name in before} == before, "a committed unit was done again"
        assert contents(workspace) == contents(finished.workspace)
        assert verify_workspace(Workspace(workspace))[1] == []

    # Epochs: two of each of four networks. Shards: two of each of five label sets.
    @pytest.mark.parametrize("point", ["epoch:1", "epoch:2", "epoch:5", "epoch:8", "infer:4", "array:7"])
    def test_at_a_point(self, maskmill: Launcher, finished: Finished, tmp_path: Path, point: str) -> None:
        workspace = Path(shutil.copytree(finished.refined, tmp_path / "workspace"))
        config = write(tmp_path, finished.data, *CHAIN)
        died = maskmill.run("run", config, "-w", workspace, MASKMILL_DIE_AT=point)
        assert died.status == -signal.SIGKILL, died.err
        checkpoints = list(workspace.glob("models/segmenter-*/checkpoint.pt"))
        assert len(checkpoints) == (1 if point.startswith("epoch") else 0)
        self.finish(maskmill, finished, config, workspace)

    @pytest.mark.parametrize("moment", range(3))
    def test_at_a_random_moment(self, maskmill: Launcher, finished: Finished, tmp_path: Path, moment: int) -> None:
        config = write(tmp_path, finished.data, *CHAIN)
        # One moment in each third of the networks' time.
        delay = (moment + random.Random(moment).random()) / 3 * finished.seconds
        for attempt in range(5):
            workspace = Path(shutil.copytree(finished.refined, tmp_path / str(attempt)))
            running = maskmill.start("segment", config, "-w", workspace)
            running.wait(delay)
            running.kill()
            if running.wait() == -signal.SIGKILL:
                break
            delay *= 0.8
        assert running.status == -signal.SIGKILL
        self.finish(maskmill, finished, config, workspace)


@pytest.mark.slow
class TestBadInput:
    @pytest.fixture
    def segment(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> Callable[..., tuple[Running, Path]]:
        """Train from finished masks, or from nothing."""

        def segment(*train: dict[str, Any], fresh: bool = False, **sections: Any) -> tuple[Running, Path]:
            workspace = tmp_path / "workspace"
            if not fresh:
                shutil.copytree(finished.refined, workspace)
            return maskmill.run(
                "segment", write(tmp_path, finished.data, *train, **sections), "-w", workspace
            ), workspace

        return segment

    @pytest.mark.parametrize("train", [UNET, RECURSEED], ids=["unet", "recurseed"])
    def test_a_split_that_is_not_there(
        self, segment: Callable[..., tuple[Running, Path]], train: dict[str, Any]
    ) -> None:
        done, workspace = segment({**train, "split": ["nowhere"]}, fresh=True)
        assert done.status == 2
        assert "split: expected one of train, val, saw 'nowhere'" in done.err
        assert "Traceback" not in done.err
        assert not list(workspace.glob("models/*"))

    def test_the_ceiling_without_ground_truth(
        self, segment: Callable[..., tuple[Running, Path]], finished: Finished
    ) -> None:
        dataset = settings(finished.data)["dataset"]
        dataset = {name: dataset[name] for name in dataset if name != "mask"}
        done, workspace = segment(CEILING, fresh=True, dataset=dataset)
        assert done.status == 2
        assert f"train: {CEILING_TITLE}: labels: expected a data set with ground truth masks, it has none" in done.err
        assert "Traceback" not in done.err
        assert not list(workspace.glob("models/*"))

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"backbone": "resnet999"}, "train: unet-first: "),
            ({"keep_stride": ["S5"]}, "train: unet-first: "),
            (
                {"inference": {"scales": [1.0, 0.25]}},
                "train: unet-first: inference.scales: expected images of 32 pixels",
            ),
            ({"labels": "nothing"}, "train: unet-nothing: labels: expected ground_truth or one of grad_cam-S5, saw"),
            ({"resize": 32}, "train: unet-first: resize: expected at least classifier.input_size, 64, saw 32"),
            ({"weights": "/nowhere.safetensors"}, "nowhere.safetensors"),
        ],
    )
    def test_refused_before_anything_is_trained(
        self, segment: Callable[..., tuple[Running, Path]], wrong: dict[str, Any], told: str
    ) -> None:
        done, workspace = segment({**UNET, **wrong}, fresh=True)
        assert done.status == 2, done.err
        assert told in done.err
        assert "Traceback" not in done.err
        assert not list(workspace.glob("models/*"))

    @pytest.mark.parametrize("train", [UNET, {**RECURSEED, "groups": False}], ids=["unet", "recurseed"])
    def test_a_loss_that_is_not_finite(
        self, segment: Callable[..., tuple[Running, Path]], finished: Finished, train: dict[str, Any]
    ) -> None:
        # One step an epoch: the first leaves a checkpoint, the second step sees what it did.
        optimise = {"epochs": 3, "batch_size": 16, "learning_rate": 1e30}
        done, workspace = segment({**train, "optimise": optimise})
        assert done.status == 1
        assert "epoch 2, step 1: expected a finite loss, saw" in done.err
        assert "optimise.learning_rate" in done.err
        assert "Traceback" not in done.err
        assert any(f"images/{path.name}" in done.err for path in finished.data.glob("images/*"))
        (model,) = folders(workspace, "segmenter")
        state = load_checkpoint(model / "checkpoint.pt")
        assert state is not None
        assert [one["epoch"] for one in state["history"]] == [1]
        assert not (model / WEIGHTS).exists()

    def test_changed_weights_are_not_used(
        self, maskmill: Launcher, finished: Finished, copied: Path, tmp_path: Path
    ) -> None:
        name = Workspace(copied).read_run()["segmenters"][0]
        path = copied / "models" / name / WEIGHTS
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        other = {**UNET, "inference": {"flip": False}}
        config = write(tmp_path, finished.data, other)
        done = maskmill.run("segment", config, "-w", copied)
        assert done.status == 1
        assert "the file changed, run `maskmill verify --repair`" in done.err
        assert maskmill.run("verify", copied, "--repair").status == 1
        done = maskmill.run("segment", config, "-w", copied)
        assert done.status == 0, done.err
        assert path.read_bytes() == (finished.workspace / "models" / name / WEIGHTS).read_bytes()

    def test_masks_that_know_nothing(self, segment: Callable[..., tuple[Running, Path]]) -> None:
        # Nothing is certain at such bounds, but for an image without a class.
        refine = [{"step": "certain_filter", "foreground": 1.0, "background": 0.0}]
        done, workspace = segment(UNET, refine=refine)
        assert done.status == 1
        assert "train: unet-first: expected at least two images to learn from in train, saw 1 of 9" in done.err
        assert "Traceback" not in done.err
        assert not list(workspace.glob("models/segmenter-*/weights*"))
