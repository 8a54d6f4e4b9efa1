"""Soft maps where memory is short, and of every method through the command."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from configs import load_config
from configs.proposals import Proposal
from flows.propose import _begin
from flows.resume import finished
from methods.activation import Record
from storage.workspace import Workspace
from tasks.context import Run
from tasks.folders import name_proposals
from tasks.maps import MapMaker
from tasks.propose import SCORE, Product, ProposeWork
from tests.flows.conftest import Reference, settings
from tests.flows.launcher import Launcher

EVERY: list[dict[str, Any]] = [
    {"method": "cam"},
    {"method": "full_grad"},
    {"method": "smooth_grad_cam_plus_plus", "samples": 2},
    {"method": "score_cam", "max_maps": 4},
    {"method": "ablation_cam", "max_maps": 4},
    {"method": "ss_cam", "max_maps": 4, "samples": 2},
    {"method": "is_cam", "max_maps": 4, "samples": 2},
    {"method": "xgrad_cam", "layers": ["S4", "S5"], "truncation": 20, "population": "layer", "fuse": "max_tanh"},
]


@pytest.mark.slow
class TestProposeWork:
    def test_short_memory_halves_batches_and_changes_nothing(self, reference: Reference, tmp_path: Path) -> None:
        workspace = Workspace(Path(shutil.copytree(reference.workspace, tmp_path / "workspace")))
        for folder in workspace.root.glob("stages/propose-*"):
            shutil.rmtree(folder)
        run = Run(load_config(reference.config), workspace)
        state = finished(run, ("stage", "classify"))
        assert state is not None
        name_proposals(state)
        products = [Product(one, folder) for one, folder in state.proposals]
        network = _begin(state, products)
        work = ProposeWork(run.config, state.index, network, state.source(), state.device, products, multi_label=True)
        sizes: list[int] = []

        class Small(MapMaker):
            def __call__(
                self, images: Tensor, pairs: Tensor, proposals: Sequence[Proposal]
            ) -> tuple[Record, list[Tensor]]:
                sizes.append(len(images))
                if len(images) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().__call__(images, pairs, proposals)

        work.maker = Small(network)
        for shard in work.missing():
            work(shard)
        assert max(sizes) > 2
        assert sizes.count(max(sizes)) == 1, "the size that fits is remembered"
        for one in products:
            before = (reference.workspace / "stages" / one.folder.name).resolve()
            assert one.folder.complete
            for shard in range(one.folder.shards):
                room = one.folder.spec(SCORE).shard_rows
                found = one.folder.rows(SCORE, shard, shard * room, (shard + 1) * room).astype(np.float32)
                expected = type(one.folder)(before).rows(SCORE, shard, shard * room, (shard + 1) * room)
                np.testing.assert_allclose(found, expected.astype(np.float32), atol=2e-3)

    def test_every_method_through_the_command(self, maskmill: Launcher, reference: Reference, tmp_path: Path) -> None:
        sections = yaml.safe_load(reference.config.read_text())
        trained = next(reference.workspace.glob("models/*/weights.safetensors"))
        sections = {**settings(Path(sections["dataset"]["root"])), "proposals": EVERY, "report": {"overlays": 0}}
        sections["classifier"] = {"backbone": "small", "input_size": 64, "trained": str(trained)}
        sections["runtime"] |= {"fold_batch_norm": True}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
        done = maskmill.run("run", tmp_path / "config.yaml", "-w", tmp_path / "workspace", "--limit", "8")
        assert done.status == 0, done.err
        assert "lt_layer_xgrad_cam-S4+S5-d20-max_tanh" in done.out
        assert len(list(tmp_path.glob("workspace/stages/propose-*"))) == len(EVERY)
        again = maskmill.run("verify", tmp_path / "workspace")
        assert again.status == 0, again.err
