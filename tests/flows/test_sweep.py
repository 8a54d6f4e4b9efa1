"""A sweep of the truncation percentile, through the command: its rows, its page, and what it says at the end."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from storage.demo_data import make_demo
from tests.flows.conftest import settings
from tests.flows.launcher import Launcher

Run = Callable[..., tuple[Path, str]]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, nine of them in train."""
    return make_demo(tmp_path_factory.mktemp("few") / "demo", images=12, size=64)


@pytest.fixture(scope="module")
def first(maskmill: Launcher, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace of a run with a sweep over three percentiles, one of them listed under another name."""
    folder = tmp_path_factory.mktemp("sweep")
    done = maskmill.run("run", write(folder, few, gold_images=4), "-w", folder / "workspace")
    assert done.status == 0, done.err
    (folder / "out").write_text(done.out)
    return folder


def write(folder: Path, root: Path, **sweep: Any) -> Path:
    """The configuration of a run with a sweep."""
    listed = {"method": "grad_cam", "layers": ["S4", "S5"], "truncation": 40, "name": "mine"}
    sections = {
        **settings(root),
        "proposals": [{"method": "grad_cam"}, listed],
        "sweep": {"layers": ["S4", "S5"], "truncations": [0, 40, 80], **sweep},
        "evaluate": {"curve": False},
        "report": {"overlays": 0},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def sweep_frame(workspace: Path) -> tuple[pd.DataFrame, str]:
    """Rows of the newest report's sweep, and its page."""
    report = max(workspace.glob("reports/*"), key=lambda path: (path / "report.html").stat().st_mtime_ns)
    frame = pq.ParquetFile(report / "metrics.parquet").read().to_pandas()
    return frame[frame["stage"] == "sweep"], (report / "report.html").read_text()


@pytest.mark.slow
class TestSweep:
    def test_gold(self, first: Path) -> None:
        frame, page = sweep_frame(first / "workspace")
        curve = frame[frame["threshold_source"] == "fixed"]
        assert set(frame["method"]) == {"lt_grad_cam-S4+S5"}
        assert sorted({*zip(curve["split"], curve["metric"], curve["threshold"])}) == sorted(
            (split, metric, δ)
            for split in ("train", "val")
            for metric in ("miou", "fg_iou_pooled")
            for δ in (0.0, 0.4, 0.8)
        )
        images = frame[frame["metric"] == "miou"].groupby(["split", "threshold_source"])["images"].first().to_dict()
        assert images["train", "fixed"] - images["train", "gold-4"] == 4
        assert images["val", "fixed"] == images["val", "gold-4"] == images["val", "oracle"]
        (δ,) = set(frame.loc[frame["threshold_source"] == "gold-4", "threshold"])
        assert f"sweep lt_grad_cam-S4+S5: δ = {round(100 * δ)}, by gold-4: mIoU val" in (first / "out").read_text()
        assert f"δ = {round(100 * δ)} was chosen on 4 images of train" in page
        assert page.count("Sweep of δ, lt_grad_cam-S4+S5") >= 2
        assert "gold images" in page

    def test_curve_is_that_of_the_masks(self, first: Path) -> None:
        frame, _ = sweep_frame(first / "workspace")
        report = next((first / "workspace").glob("reports/*/metrics.parquet"))
        masks = pq.ParquetFile(report).read().to_pandas()
        masks = masks[(masks["stage"] == "mask") & (masks["metric"] == "miou")].set_index(["method", "split"])["value"]
        curve = frame[(frame["threshold_source"] == "fixed") & (frame["metric"] == "miou")]
        names = {0.0: "lt_grad_cam-S4+S5-d0", 0.4: "mine", 0.8: "lt_grad_cam-S4+S5-d80"}
        for row in curve.itertuples():
            assert row.value == masks[names[row.threshold], row.split]

    def test_another_choice_makes_no_map_anew(self, maskmill: Launcher, few: Path, first: Path, tmp_path: Path) -> None:
        workspace = Path(shutil.copytree(first / "workspace", tmp_path / "workspace"))
        stages = {path.name for path in workspace.glob("stages/*")}
        done = maskmill.run("run", write(tmp_path, few, choose="rule"), "-w", workspace)
        assert done.status == 0, done.err
        assert {path.name for path in workspace.glob("stages/*")} == stages
        assert len(list(workspace.glob("reports/*/report.html"))) == 2
        frame, page = sweep_frame(workspace)
        assert set(frame["threshold_source"]) == {"fixed", "rule", "oracle"}
        shares = frame[(frame["metric"] == "label_share") & (frame["threshold_source"] == "fixed")]
        assert shares["threshold"].tolist() == [0.0, 0.4, 0.8]
        (δ,) = set(frame.loc[frame["threshold_source"] == "rule", "threshold"])
        assert δ == shares.sort_values(["value", "threshold"])["threshold"].iloc[0]
        assert "has the tightest masks that keep every label" in page
        assert ", by rule: mIoU val" in done.out

    def test_rule_without_ground_truth(self, maskmill: Launcher, few: Path, first: Path, tmp_path: Path) -> None:
        trained = next((first / "workspace").glob("models/*/weights.safetensors"))
        options = ["dataset.mask=null", f"classifier.trained={trained}"]
        arguments = [part for option in options for part in ("--set", option)]
        workspace = tmp_path / "workspace"
        done = maskmill.run("run", write(tmp_path, few, choose="rule"), "-w", workspace, *arguments)
        assert done.status == 0, done.err
        frame, page = sweep_frame(workspace)
        assert set(frame["metric"]) == {"label_share"}
        assert set(frame["threshold_source"]) == {"fixed", "rule"}
        assert "has the tightest masks that keep every label" in page
        assert ", by rule" in done.out

    def test_gold_without_ground_truth_is_refused_before_training(
        self, maskmill: Launcher, few: Path, tmp_path: Path
    ) -> None:
        for option, seen in (("dataset.mask=null", "ground truth"), ("sweep.gold_split=gone", "gone")):
            done = maskmill.run("run", write(tmp_path, few), "-w", tmp_path / "workspace", "--set", option)
            assert done.status == 2, done.err
            assert seen in done.err
            assert not list((tmp_path / "workspace").glob("models/*"))
