"""Attention, decoders and their maps through the command: results, restart, kills, and what goes wrong."""

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from methods.networks import build_vit
from storage.demo_data import make_demo
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import settings
from tests.flows.contents import contents, records, uncommitted
from tests.flows.launcher import Launcher

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
    seconds: float


def write(folder: Path, data: Path, vit: Path, train: list[dict[str, Any]], **sections: Any) -> Path:
    """The configuration of a run with decoders."""
    path = folder / "config.yaml"
    transformer = {"backbone": "vit_mini_patch16", "weights": str(vit), "input_size": 64}
    chain = {"proposals": PROPOSALS, "transformer": transformer, "train": train}
    path.write_text(yaml.safe_dump({**settings(data), **chain, **sections}))
    return path


def models(workspace: Path, kind: str) -> list[Path]:
    """Folders of a kind of model."""
    return sorted(workspace.glob(f"models/{kind}-*"))


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
    began = time.monotonic()
    done = maskmill.run("run", write(folder, data, vit, [FCAM, DIPS]), "-w", folder / "workspace")
    assert done.status == 0, done.err
    return Finished(data, vit, folder / "workspace", time.monotonic() - began)


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
