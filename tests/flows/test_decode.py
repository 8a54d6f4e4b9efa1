"""Attention, decoders and their maps through the command: results, restart, kills, and what goes wrong."""

import math
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
import torch
import yaml
from safetensors.torch import save_file

from methods.networks import build_vit
from storage.checkpoints import load_checkpoint
from storage.demo_data import make_demo
from storage.files import seal, unseal
from storage.stages import FACTS, StageFolder
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tasks.propose import LOGITS, SCORE
from tests.flows.conftest import settings
from tests.flows.contents import contents, records, uncommitted
from tests.flows.launcher import Launcher, Running

OPTIMISE = {"epochs": 2, "batch_size": 4}
WIDTHS = [16, 8, 8, 8, 8]
FCAM: dict[str, Any] = {"model": "fcam", "proposal": "grad_cam-S5", "widths": WIDTHS, "optimise": OPTIMISE}
DIPS: dict[str, Any] = {
    "model": "dips",
    "encoder": "small",
    "widths": WIDTHS,
    "regions": {"min_size": 0.2},
    "optimise": OPTIMISE,
}
PROPOSALS: list[dict[str, Any]] = [{"method": "grad_cam"}, {"method": "dino"}, {"method": "ts_cam"}]
METHODS = ["grad_cam-S5", "dino", "ts_cam", "fcam-grad_cam-S5", "dips-small"]


@dataclass(frozen=True)
class Finished:
    """A finished chain; nobody writes into its workspace."""

    data: Path
    vit: Path
    workspace: Path
    proposed: Path
    """The same chain up to its proposals, without a decoder."""
    seconds: float
    """How long the decoders took from there."""


def write(folder: Path, data: Path, vit: Path, train: list[dict[str, Any]], **sections: Any) -> Path:
    """The configuration of a run with decoders."""
    path = folder / "config.yaml"
    transformer = {"backbone": "vit_mini_patch16", "weights": str(vit), "input_size": 64}
    chain = {"proposals": PROPOSALS, "transformer": transformer, "train": train}
    path.write_text(yaml.safe_dump({**settings(data), **chain, **sections}))
    return path


def models(workspace: Path, kind: str) -> list[Path]:
    """Folders of a kind of model that hold something trained."""
    found = {
        path.parent
        for name in ("weights.safetensors", "checkpoint.pt")
        for path in workspace.glob(f"models/{kind}-*/{name}")
    }
    return sorted(found)


def stages(workspace: Path, kind: str) -> list[Path]:
    """Folders of a kind of stage."""
    return sorted(workspace.glob(f"stages/{kind}-*"))


@pytest.fixture(scope="module")
def finished(maskmill: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The chain of F-CAM, DiPS, attention of one head and TS-CAM on twelve images, undisturbed."""
    folder = tmp_path_factory.mktemp("decode")
    data = make_demo(folder / "demo", images=12, size=64)
    torch.manual_seed(0)
    vit = folder / "vit.safetensors"
    save_file(
        {name: one.contiguous() for name, one in build_vit("vit_mini_patch16", input_size=64).state_dict().items()}, vit
    )
    config, workspace = write(folder, data, vit, [FCAM, DIPS]), folder / "workspace"
    done = maskmill.run("propose", config, "-w", workspace)
    assert done.status == 0, done.err
    proposed = Path(shutil.copytree(workspace, folder / "proposed"))
    began = time.monotonic()
    done = maskmill.run("train", config, "-w", workspace)
    assert done.status == 0, done.err
    seconds = time.monotonic() - began
    done = maskmill.run("run", config, "-w", workspace)
    assert done.status == 0, done.err
    return Finished(data, vit, workspace, proposed, seconds)


@pytest.mark.slow
class TestChain:
    def test_rows_and_page(self, finished: Finished) -> None:
        (report,) = finished.workspace.glob("reports/*")
        frame: pd.DataFrame = pq.ParquetFile(report / "metrics.parquet").read().to_pandas()
        assert set(METHODS) <= set(frame["method"])
        found = frame[frame["metric"].isin(["miou", "px_ap", "max_box_acc"]) & frame["method"].isin(METHODS)]
        assert found["value"].between(0, 1).all()
        for metric in ("miou", "px_ap"):
            assert set(found[found["metric"] == metric]["method"]) == set(METHODS), metric
        page = (report / "report.html").read_text()
        assert all(method in page for method in METHODS)

    def test_folders(self, finished: Finished) -> None:
        workspace = finished.workspace
        assert len(models(workspace, "decoder")) == 2
        assert len(models(workspace, "transformer")) == 1
        assert [len(stages(workspace, kind)) for kind in ("attend", "regions", "propose")] == [1, 1, 5]
        assert len(stages(workspace, "mask")) == 5
        assert verify_workspace(Workspace(workspace))[1] == []

    def test_a_second_run_does_nothing(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        workspace = Path(shutil.copytree(finished.workspace, tmp_path / "workspace"))
        before, known = records(workspace), contents(workspace)
        config = write(tmp_path, finished.data, finished.vit, [FCAM, DIPS])
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err
        assert records(workspace) == before
        assert contents(workspace) == known


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

    # Two epochs of F-CAM, then two of DiPS: after the first, before the weights are written, and again.
    @pytest.mark.parametrize("point", ["epoch:1", "epoch:2", "epoch:3", "epoch:4"])
    def test_at_the_end_of_an_epoch(self, maskmill: Launcher, finished: Finished, tmp_path: Path, point: str) -> None:
        workspace = Path(shutil.copytree(finished.proposed, tmp_path / "workspace"))
        config = write(tmp_path, finished.data, finished.vit, [FCAM, DIPS])
        died = maskmill.run("run", config, "-w", workspace, MASKMILL_DIE_AT=point)
        assert died.status == -signal.SIGKILL, died.err
        assert len(list(workspace.glob("models/decoder-*/checkpoint.pt"))) == 1
        self.finish(maskmill, finished, config, workspace)

    @pytest.mark.parametrize("moment", range(5))
    def test_at_a_random_moment(self, maskmill: Launcher, finished: Finished, tmp_path: Path, moment: int) -> None:
        config = write(tmp_path, finished.data, finished.vit, [FCAM, DIPS])
        # One moment in each fifth of the decoders' time.
        delay = (moment + random.Random(moment).random()) / 5 * finished.seconds
        for attempt in range(5):
            workspace = Path(shutil.copytree(finished.proposed, tmp_path / str(attempt)))
            running = maskmill.start("train", config, "-w", workspace)
            running.wait(delay)
            running.kill()
            if running.wait() == -signal.SIGKILL:
                break
            delay *= 0.8
        assert running.status == -signal.SIGKILL
        assert len(uncommitted(workspace)) <= 2
        self.finish(maskmill, finished, config, workspace)

    def test_again_and_again(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> None:
        workspace = Path(shutil.copytree(finished.proposed, tmp_path / "workspace"))
        config = write(tmp_path, finished.data, finished.vit, [FCAM, DIPS])
        # Every run gets one epoch further.
        deaths = 0
        while maskmill.run("train", config, "-w", workspace, MASKMILL_DIE_AT="epoch:1").status != 0:
            deaths += 1
            assert deaths <= 4
        assert deaths == 4
        self.finish(maskmill, finished, config, workspace)


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change what a stage says of itself, with a digest that agrees."""
    path = folder / "manifest.json"
    path.write_bytes(seal({**unseal(path.read_bytes()), **changes}))


@pytest.mark.slow
class TestBadInput:
    @pytest.fixture
    def decode(self, maskmill: Launcher, finished: Finished, tmp_path: Path) -> Callable[..., tuple[Running, Path]]:
        """Decode from finished proposals, perhaps changed ones."""

        def decode(
            *train: dict[str, Any],
            change: Callable[[Path], None] | None = None,
            data: Path = finished.data,
            **sections: Any,
        ) -> tuple[Running, Path]:
            workspace = Path(shutil.copytree(finished.proposed, tmp_path / "workspace"))
            if change is not None:
                (proposal,) = [one for one in stages(workspace, "propose") if (one / "logits").exists()]
                change(proposal)
            config = write(tmp_path, data, finished.vit, list(train), **sections)
            return maskmill.run("train", config, "-w", workspace), workspace

        return decode

    def test_maps_of_another_data_set(self, decode: Callable[..., tuple[Running, Path]]) -> None:
        done, workspace = decode(FCAM, change=lambda folder: edit_manifest(folder, index_stage="stage-ffffffffffff"))
        assert done.status == 1
        assert "fcam-grad_cam-S5: expected maps made for stage-" in done.err
        assert "was made for stage-ffffffffffff" in done.err
        assert "Traceback" not in done.err
        assert not models(workspace, "decoder")

    def test_missing_classes(self, decode: Callable[..., tuple[Running, Path]]) -> None:
        done, _ = decode(FCAM, change=lambda folder: edit_manifest(folder, classes=["brick", "coins", "gravel"]))
        assert done.status == 1
        assert "expected maps of the classes brick, coins, grass, gravel" in done.err
        assert "grass are missing" in done.err

    def test_constant_maps_only(self, decode: Callable[..., tuple[Running, Path]]) -> None:
        done, workspace = decode(FCAM, change=flatten)
        assert done.status == 0, done.err
        (model,) = models(workspace, "decoder")
        history = pq.ParquetFile(model / "history.parquet").read().to_pylist()
        assert len(history) == 2
        assert all(math.isfinite(one["loss"]) for one in history)
        assert all(one["seeds"] == 0 for one in history)

    @pytest.mark.parametrize("decoder", [FCAM, DIPS], ids=["fcam", "dips"])
    def test_a_split_that_is_not_there(
        self, decode: Callable[..., tuple[Running, Path]], decoder: dict[str, Any]
    ) -> None:
        done, workspace = decode({**decoder, "split": ["nowhere"]})
        assert done.status == 2
        assert "split: expected one of train, val, saw 'nowhere'" in done.err
        assert "Traceback" not in done.err
        assert not [one for one in models(workspace, "decoder") if (one / "weights.safetensors").exists()]

    @pytest.mark.parametrize("decoder", [FCAM, DIPS], ids=["fcam", "dips"])
    def test_a_loss_that_is_not_finite(
        self, decode: Callable[..., tuple[Running, Path]], finished: Finished, decoder: dict[str, Any]
    ) -> None:
        # One step an epoch: the first leaves a checkpoint, the second step sees what it did.
        optimise = {"epochs": 3, "batch_size": 16, "learning_rate": 1e30}
        done, workspace = decode({**decoder, "optimise": optimise})
        assert done.status == 1
        assert "epoch 2, step 1: expected a finite loss, saw" in done.err
        title = "fcam-grad_cam-S5" if decoder is FCAM else "dips-small"
        assert f"lower train: {title}: optimise.learning_rate" in done.err
        assert "Traceback" not in done.err
        assert sum(f"images/{path.name}" in done.err for path in finished.data.glob("images/*")) == 8
        (model,) = models(workspace, "decoder")
        state = load_checkpoint(model / "checkpoint.pt")
        assert state is not None
        assert [one["epoch"] for one in state["history"]] == [1]
        assert not (model / "weights.safetensors").exists()

    @pytest.mark.parametrize("select", ["px_ap", "max_box_acc"])
    def test_select_without_ground_truth(
        self, decode: Callable[..., tuple[Running, Path]], finished: Finished, select: str
    ) -> None:
        dataset = settings(finished.data)["dataset"]
        done, _ = decode(
            {**FCAM, "select": select}, dataset={name: dataset[name] for name in dataset if name != "mask"}
        )
        assert done.status == 2
        assert f"(fcam-grad_cam-S5): select: {select}: expected ground truth" in done.err

    def test_select_of_a_split_that_is_not_there(self, decode: Callable[..., tuple[Running, Path]]) -> None:
        done, _ = decode({**FCAM, "select": "px_ap", "select_split": "nowhere"})
        assert done.status == 2
        assert "select" in done.err
        assert "nowhere" in done.err

    def test_images_smaller_than_the_crop(self, decode: Callable[..., tuple[Running, Path]]) -> None:
        done, workspace = decode({**FCAM, "resize": 32})
        assert done.status == 2
        assert "train: fcam-grad_cam-S5: resize: expected at least classifier.input_size, 64, saw 32" in done.err
        assert not models(workspace, "decoder")

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"widths": [8, 8]}, "widths"),
            ({"layers": ["S9"]}, "S9"),
            ({"select": "max_box_acc"}, "select: max_box_acc: expected ground truth boxes, the data set has none"),
        ],
    )
    def test_refused_before_anything_is_trained(
        self, decode: Callable[..., tuple[Running, Path]], wrong: dict[str, Any], told: str
    ) -> None:
        done, workspace = decode({**FCAM, **wrong})
        assert done.status == 2
        assert "train.0 (fcam-grad_cam-S5)" in done.err
        assert told in done.err
        assert not models(workspace, "decoder")

    def test_select_keeps_the_best_epoch(self, decode: Callable[..., tuple[Running, Path]]) -> None:
        done, workspace = decode({**FCAM, "select": "px_ap"})
        assert done.status == 0, done.err
        (model,) = models(workspace, "decoder")
        assert all(0 <= one["px_ap"] <= 1 for one in pq.ParquetFile(model / "history.parquet").read().to_pylist())


def flatten(proposal: Path) -> None:
    """Write zeros in place of every map of a proposal."""
    folder = StageFolder(proposal)
    room, grid = folder.spec(SCORE).shard_rows, folder.spec(SCORE).item
    for shard in range(folder.shards):
        tables = {name: folder.shard_table(shard, name) for name in (FACTS, LOGITS)}
        folder.write(shard, arrays={SCORE: (shard, np.zeros((room, *grid), np.float16))}, tables=tables)
