"""Every stage knows what to do without an image, and whoever reads it what to make of that."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from methods.networks import build_vit
from storage.aside import set_aside
from storage.index import ImageIndex, read_index
from storage.labels import LabelStore
from storage.stages import FACTS, StageFolder, unit_name
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import settings
from tests.flows.launcher import Launcher

REASON = "the process that looks at it is killed by SIGKILL"
SHARD = 6
OPTIMISE = {"epochs": 1, "batch_size": 4}
KINDS = ("truth", "attend", "propose", "scg", "regions", "mask", "predict", "change", "floors", "localize", "evaluate")
FLAGGED, UNLABELLED, UNCOUNTED = {"attend", "propose", "scg"}, {"truth", "mask", "predict"}, {"regions", "change"}
UNCOUNTED |= {"floors", "localize", "evaluate"}
CALLED = {"mask": "refine"}


def config_of(folder: Path, data: Path) -> Path:
    """A run with a folder of every kind."""
    torch.manual_seed(0)
    save_file(dict(build_vit("vit_mini_patch16", input_size=64).state_dict()), folder / "vit.safetensors")
    widths = [16, 8, 8, 8, 8]
    dips: dict[str, Any] = {
        "model": "dips",
        "encoder": "small",
        "widths": widths,
        "regions": {"min_size": 0.2},
        "optimise": OPTIMISE,
    }
    dips["crf"] = {"weight": 0.0}
    unet = {"model": "unet", "width": 16, "optimise": OPTIMISE}
    sections: dict[str, Any] = {
        "proposals": [{"method": "layer_cam"}, {"method": "dino"}],
        "transformer": {"backbone": "vit_mini_patch16", "weights": str(folder / "vit.safetensors"), "input_size": 64},
        "train": [dips, unet],
        "refine": [{"step": "scg", "layers": ["S5"]}, {"step": "otsu"}],
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**settings(data), **sections}))
    return path


def labelled(index: ImageIndex) -> dict[str, int]:
    """A row with a label for each kind of folder."""
    rows = [row for row in range(len(index)) if index.ok[row] and index.class_ids[row]]
    return dict(zip(KINDS, rows, strict=False))


@pytest.mark.slow
class TestLeftOut:
    def test_everywhere(self, maskmill: Launcher, data: Path, tmp_path: Path) -> None:
        config, workspace = config_of(tmp_path, data), Workspace(tmp_path / "workspace")
        done = maskmill.run("run", config, "-w", workspace.root)
        assert done.status == 0, done.err
        index = read_index(workspace.index_path)
        rows = labelled(index)
        assert rows.keys() == {*KINDS}
        folders = [(kind, folder) for folder in workspace.stages() if (kind := folder.name.split("-")[0]) in rows]
        assert {kind for kind, _ in folders} == {*KINDS}
        for kind, folder in folders:
            set_aside(folder, rows[kind] // SHARD, {rows[kind]: REASON})
            for shard in range(folder.shards):
                folder.log.withdraw(unit_name(shard))
        for path in workspace.root.glob("reports/*/commits/*.json"):
            path.unlink()
        again = maskmill.run("run", config, "-w", workspace.root)
        assert again.status == 0, again.err
        assert verify_workspace(workspace)[1] == []
        for kind, folder in folders:
            self.check(kind, folder, index, rows[kind])
        self.check_report(workspace, index, rows)

    @staticmethod
    def check(kind: str, folder: StageFolder, index: ImageIndex, row: int) -> None:
        """What a stage says of the image that it left out, and that it says more of others."""
        if kind in FLAGGED:
            facts = folder.table(FACTS).to_pylist()
            assert {fact["flag"] for fact in facts if fact["row"] == row} == {"nonfinite"}
            assert any(fact["flag"] == "" for fact in facts)
        if kind in UNLABELLED:
            store = LabelStore(folder, index)
            assert (store.mask(row) == 255).all()
            assert any((store.mask(other) != 255).any() for other in range(len(index)))
        if kind in UNCOUNTED:
            counted = set(folder.table(FACTS).column("row").to_pylist())
            assert row not in counted
            assert counted

    @staticmethod
    def check_report(workspace: Workspace, index: ImageIndex, rows: dict[str, int]) -> None:
        """Every one of them is listed, once for each method."""
        report = workspace.report(workspace.read_run()["report"])
        found = pq.ParquetFile(report / "quarantine.parquet").read().to_pylist()
        told = {(one["image_id"], one["stage"]) for one in found if one["reason"] == REASON}
        assert told == {(index.ids[row], CALLED.get(kind, kind)) for kind, row in rows.items()}
        assert len({tuple(one.values()) for one in found}) == len(found)
