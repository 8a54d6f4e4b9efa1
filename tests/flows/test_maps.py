"""Maps that say nothing never become background, and a picture that changes during a run is noticed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from storage.labels import open_labels
from storage.weights import load_state, save_state
from storage.workspace import Workspace
from tests.flows.conftest import Reference, poll, settings
from tests.flows.launcher import Launcher


def spoiled(reference: Reference, path: Path, value: float) -> Path:
    """The trained weights with one value all over the head's weight."""
    state = load_state(next(reference.workspace.glob("models/*/weights.safetensors")))
    state["head.weight"] = torch.full_like(state["head.weight"], value)
    save_state(path, state)
    return path


@pytest.mark.slow
class TestMaps:
    @pytest.mark.parametrize(("value", "flag"), [(float("nan"), "nonfinite"), (0.0, "constant")])
    def test_are_flagged_and_ignored(
        self,
        maskmill: Launcher,
        reference: Reference,
        data: Path,
        write_config: Callable[..., Path],
        tmp_path: Path,
        value: float,
        flag: str,
    ) -> None:
        weights = spoiled(reference, tmp_path / "weights.safetensors", value)
        classifier: dict[str, Any] = {**settings(data)["classifier"], "trained": str(weights)}
        workspace = tmp_path / "workspace"
        done = maskmill.run("run", write_config(data, classifier=classifier), "-w", workspace)
        assert done.status == 0, done.err

        run = Workspace(workspace).read_run()
        labelled = set()
        for name in run["labels"]:
            store = open_labels(Workspace(workspace), Workspace(workspace).stage("mask", name.removeprefix("mask-")))
            facts = store.folder.table().to_pylist()
            assert {fact["flag"] for fact in facts} == {flag}
            labelled |= {fact["image_id"] for fact in facts}
            for row, mask in store:
                assert (mask == (255 if store.index.class_ids[row] else 0)).all()
                assert (store.mask(row, "confidence") == 0).all() or not store.index.class_ids[row]
        quarantine = pq.ParquetFile(next(workspace.glob("reports/*/quarantine.parquet"))).read().to_pylist()
        assert {row["image_id"] for row in quarantine} == (labelled if flag == "nonfinite" else set())
        assert {row["method"] for row in quarantine} <= set(run["methods"])
        assert maskmill.run("verify", workspace).status == 0


@pytest.mark.slow
class TestChangedImage:
    def test_after_staging(
        self, maskmill: Launcher, own_data: Path, write_config: Callable[..., Path], tmp_path: Path
    ) -> None:
        config, workspace = write_config(own_data), tmp_path / "workspace"
        running = maskmill.start("run", config, "-w", workspace)
        # Between the epochs staging is over and no map is made yet; image 3 is in split val and not trained on.
        poll(lambda: list(workspace.glob("models/*/checkpoint.pt")))
        os.kill(running.pid, signal.SIGSTOP)
        path = own_data / "images/00003.jpg"
        with Image.open(path) as image:
            inverted = ImageOps.invert(image)
        inverted.save(path)
        os.kill(running.pid, signal.SIGCONT)
        assert running.wait() == 1
        assert "images/00003.jpg" in running.err
        assert "changed" in running.err
        again = maskmill.run("run", config, "-w", workspace)
        assert again.status == 0, again.err
