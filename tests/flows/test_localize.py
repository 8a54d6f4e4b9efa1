"""Localization through the command line: data sets in the layout of WSOL metadata, with the presets made for them."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from torchvision.models import squeezenet1_1

from storage.demo_data import make_demo
from storage.weights import save_state
from tests.flows.conftest import settings
from tests.flows.launcher import Launcher
from tests.storage.wsol_layout import make_wsol

SMALL = ("classifier.input_size=64", "runtime.device=cpu", "runtime.threads=1", "report.overlays=1")
TRAINED = ("classifier.backbone=small", "classifier.weights=none", "classifier.train.epochs=1", *SMALL)
FIVE = ("gt_known_loc", "top5_loc")
BOXES = {"max_box_acc", "max_box_acc_v2", "gt_known_loc", "top1_loc", "top5_loc", "box_iou", "lpe", "lme"}


def run(maskmill: Launcher, config: str, workspace: Path, *overrides: str) -> tuple[pd.DataFrame, str]:
    """Metric rows and page of a run."""
    sets = [part for one in overrides for part in ("--set", one)]
    done = maskmill.run("run", config, "-w", workspace, *sets)
    assert done.status == 0, done.err
    report = max(workspace.glob("reports/*"), key=lambda path: (path / "report.html").stat().st_mtime_ns)
    return pq.ParquetFile(report / "metrics.parquet").read().to_pandas(), (report / "report.html").read_text()


@pytest.mark.slow
class TestPresets:
    def test_cub200(self, maskmill: Launcher, tmp_path: Path) -> None:
        make_wsol(tmp_path, "CUB")
        wanted = (f"dataset.root={tmp_path}", *TRAINED)
        frame, page = run(maskmill, "preset:cub200", tmp_path / "w", *wanted)
        of = frame[frame["metric"].isin(BOXES)]
        assert set(of["split"]) == {"train", "val", "test"}
        methods = of.groupby("method")["metric"].agg(set)
        assert {"max_box_acc", "max_box_acc_v2"} <= methods["centred_gaussian"]
        assert methods["centred_box"] == methods["whole_image"] == {"gt_known_loc", "box_iou", "lpe", "lme"}
        proposals = set(methods.index) - {"centred_gaussian", "centred_box", "whole_image"}
        assert len(proposals) == 8
        assert all(methods[one] == BOXES for one in proposals)
        counted = of[of["numerator"].notna()]
        assert (counted["value"] == counted["numerator"] / counted["denominator"]).all()
        assert (counted["denominator"] == 4).all()
        # Two classes: the right one is always among the first five.
        known, five = (of[(of["metric"] == name) & of["method"].isin(proposals)] for name in FIVE)
        assert known["value"].tolist() == five["value"].tolist()
        assert "Localization" in page
        assert "no ground truth masks" in page

    def test_openimages(self, maskmill: Launcher, tmp_path: Path) -> None:
        make_wsol(tmp_path, "OpenImages", masks=True)
        frame, _ = run(maskmill, "preset:openimages", tmp_path / "w", f"dataset.root={tmp_path}", *TRAINED)
        px_ap = frame[frame["metric"] == "px_ap"]
        assert set(px_ap["split"]) == {"val", "test"}
        assert px_ap["method"].nunique() == 9
        assert px_ap["value"].between(0, 1).all()
        assert not set(frame["metric"]) & BOXES

    def test_imagenet(self, maskmill: Launcher, tmp_path: Path) -> None:
        make_wsol(tmp_path, "ILSVRC", ("val", "test"))
        save_state(tmp_path / "whole.safetensors", squeezenet1_1(num_classes=2).state_dict())
        network = (f"classifier.trained={tmp_path / 'whole.safetensors'}", "classifier.backbone=squeezenet1_1")
        wanted = (f"dataset.root={tmp_path}", *network, *SMALL)
        frame, _ = run(maskmill, "preset:imagenet", tmp_path / "w", *wanted)
        assert set(frame[frame["metric"].isin(BOXES)]["metric"]) == BOXES


@pytest.mark.slow
class TestBoxesOfMasks:
    def test_asked_for(self, maskmill: Launcher, tmp_path: Path) -> None:
        root = make_demo(tmp_path / "demo", images=12, size=64)
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**settings(root), "report": {"overlays": 1}}))
        frame, page = run(maskmill, str(path), tmp_path / "w")
        assert "px_ap" in set(frame["metric"])
        assert not set(frame["metric"]) & BOXES
        frame, again = run(maskmill, str(path), tmp_path / "w", "evaluate.boxes=truth")
        assert set(frame["metric"]) >= BOXES
        assert page != again
        frame, page = run(maskmill, str(path), tmp_path / "w", "evaluate.localization=false")
        assert "px_ap" not in set(frame["metric"])
        assert "Localization" not in page
