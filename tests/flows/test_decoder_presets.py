"""Presets of decoders, run through on small data in the layout that they are made for."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from methods.networks import build_vit
from storage.weights import save_state
from tests.flows.launcher import Launcher
from tests.storage.wsol_layout import make_wsol

SMALL = (
    "classifier.backbone=small",
    "classifier.keep_stride=[]",
    "classifier.weights=none",
    "classifier.input_size=64",
    "classifier.train.epochs=1",
    "train.0.optimise.epochs=2",
    "train.0.optimise.batch_size=2",
    "train.0.resize=72",
    "train.0.widths=[16, 8, 8, 8, 8]",
    "runtime.device=cpu",
    "runtime.threads=1",
    "report.overlays=1",
)
DIPS = (
    "transformer.backbone=vit_mini_patch16",
    "transformer.input_size=64",
    "train.0.encoder=small",
    "train.0.weights=none",
    "train.0.seeds.foreground=20",
    "train.0.seeds.background=20",
)


@pytest.mark.slow
class TestDecoderPresets:
    @pytest.mark.parametrize(
        ("preset", "data", "metric"),
        [
            ("fcam-cub", "CUB", "max_box_acc"),
            ("fcam-openimages", "OpenImages", "px_ap"),
            ("dips-cub", "CUB", "max_box_acc"),
        ],
    )
    def test_runs_through(self, maskmill: Launcher, tmp_path: Path, preset: str, data: str, metric: str) -> None:
        make_wsol(tmp_path, data, masks=data == "OpenImages")
        overrides = [f"dataset.root={tmp_path}", *SMALL]
        if preset.startswith("dips"):
            save_state(tmp_path / "vit.safetensors", build_vit("vit_mini_patch16", input_size=64).state_dict())
            overrides += [*DIPS, f"transformer.weights={tmp_path / 'vit.safetensors'}"]
        sets = [part for one in overrides for part in ("--set", one)]
        done = maskmill.run("run", f"preset:{preset}", "-w", tmp_path / "w", *sets)
        assert done.status == 0, done.err
        (report,) = (tmp_path / "w" / "reports").iterdir()
        frame = pq.ParquetFile(report / "metrics.parquet").read().to_pandas()
        (model,) = (tmp_path / "w" / "models").glob("decoder-*")
        history = pq.ParquetFile(model / "history.parquet").read().to_pandas()
        assert history["epoch"].tolist() == [1, 2]
        assert {"loss", "seeds", metric} <= set(history)
        decoded = frame[frame["method"].str.startswith(preset.split("-")[0]) & (frame["metric"] == metric)]
        assert set(decoded["split"]) >= {"val", "test"}
        assert decoded["value"].between(0, 1).all()
