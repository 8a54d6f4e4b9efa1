"""Changing one thing redoes exactly what depends on it, and leaves everything earlier in its place."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from storage.exporters import voc_palette
from storage.weights import load_state, save_state
from tests.flows.conftest import Reference, settings
from tests.flows.contents import records
from tests.flows.launcher import Launcher

TRAIN, VAL = "00000", "00003"
COUNTS = Counter(evaluate=2, report=1)
JUDGED = Counter(localize=2) + COUNTS
MASKS = Counter(mask=2) + JUDGED
MAPS = Counter(propose=2) + MASKS
NETWORK = Counter(classifier=1) + MAPS
FLOORS = Counter(floors=1, localize=1)
TRUTH = Counter(stage=1, truth=1) + FLOORS
ONE_MAP = Counter(propose=1, mask=1, evaluate=1, localize=1, report=1)


def touch(root: Path) -> None:
    (root / f"images/{VAL}.jpg").touch()


def repaint(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / f"images/{name}.jpg"
        with Image.open(path) as image:
            inverted = ImageOps.invert(image)
        inverted.save(path)

    return change


def relabel(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        table = root / "labels.csv"
        lines = table.read_text().splitlines()
        place = next(number for number, line in enumerate(lines) if name in line)
        path, labels, *rest = lines[place].split(",")
        assert labels != "brick;coins;grass;gravel"
        lines[place] = ",".join([path, "brick;coins;grass;gravel", *rest])
        table.write_text("\n".join(lines) + "\n")

    return change


def ignore_corner(root: Path) -> None:
    path = root / f"masks/{VAL}.png"
    with Image.open(path) as image:
        values = np.array(image)
    values[:4, :4] = 255
    mask = Image.fromarray(values)
    mask.putpalette(voc_palette().tobytes())
    mask.save(path)


DATA: list[tuple[str, Callable[[Path], None], "Counter[str]"]] = [
    ("time stamp of an image", touch, Counter(stage=1)),
    ("content of an image", repaint(VAL), TRUTH + MAPS),
    ("content of a training image", repaint(TRAIN), TRUTH + NETWORK),
    ("label", relabel(VAL), TRUTH + MAPS),
    ("label of a training image", relabel(TRAIN), TRUTH + NETWORK),
    ("ground truth mask", ignore_corner, TRUTH + JUDGED),
]
OPTIONS: list[tuple[str, "Counter[str]"]] = [
    ("runtime.workers=1", Counter()),
    ("report.title=Other", Counter(report=1)),
    ("proposals.0.name=mine", Counter(report=1)),
    ("evaluate.centred_box=0.5", FLOORS + Counter(report=1)),
    ("evaluate.curve=false", COUNTS),
    ("refine=[{step: threshold, value: 0.3}]", MASKS),
    ("proposals.1.truncation=40", ONE_MAP),
    ("proposals.1.layers=[S3, S5]", ONE_MAP),
    ("classifier.train.seed=1", NETWORK),
    ("dataset.classes=[gravel, grass, coins, brick]", TRUTH + NETWORK),
]


def folders(workspace: Path) -> set[str]:
    """Every folder that holds results under a key."""
    return {str(path.relative_to(workspace)) for path in workspace.glob("*/*") if path.is_dir()}


def made(maskmill: Launcher, config: Path, workspace: Path, *overrides: str) -> "Counter[str]":
    """Run; returns how many folders of each step appeared. What was there before is as it was."""
    known, committed = folders(workspace), records(workspace)
    options = ["--set", *overrides] if overrides else []
    done = maskmill.run("run", config, "-w", workspace, *options)
    assert done.status == 0, done.err
    assert {name: identity for name, identity in records(workspace).items() if name in committed} == committed
    new = [Path(name) for name in folders(workspace) - known]
    return Counter("report" if path.parent.name == "reports" else path.name.partition("-")[0] for path in new)


@pytest.mark.slow
class TestMatrix:
    def test_another_place_of_the_same_data_redoes_nothing(
        self, maskmill: Launcher, own_data: Path, write_config: Callable[..., Path], workspace: Path
    ) -> None:
        assert not made(maskmill, write_config(own_data), workspace)

    @pytest.mark.parametrize(("change", "redone"), [case[1:] for case in DATA], ids=[case[0] for case in DATA])
    def test_data(
        self,
        maskmill: Launcher,
        own_data: Path,
        write_config: Callable[..., Path],
        workspace: Path,
        change: Callable[[Path], None],
        redone: "Counter[str]",
    ) -> None:
        change(own_data)
        assert made(maskmill, write_config(own_data), workspace) == redone

    @pytest.mark.parametrize(("override", "redone"), OPTIONS, ids=[case[0] for case in OPTIONS])
    def test_option(
        self, maskmill: Launcher, reference: Reference, workspace: Path, override: str, redone: "Counter[str]"
    ) -> None:
        assert made(maskmill, reference.config, workspace, override) == redone

    def test_going_back_finds_everything(self, maskmill: Launcher, reference: Reference, workspace: Path) -> None:
        assert made(maskmill, reference.config, workspace, "refine=[{step: threshold}]") == MASKS
        assert not made(maskmill, reference.config, workspace)

    def test_trained_weights(
        self, maskmill: Launcher, data: Path, write_config: Callable[..., Path], workspace: Path, tmp_path: Path
    ) -> None:
        weights = tmp_path / "weights.safetensors"
        shutil.copy(next(workspace.glob("models/*/weights.safetensors")), weights)
        classifier: dict[str, Any] = {**settings(data)["classifier"], "trained": str(weights)}
        config = write_config(data, classifier=classifier)
        # The same weights from a file: the maps know no difference.
        assert made(maskmill, config, workspace) == Counter(classifier=1, report=1)
        state = load_state(weights)
        state["head.weight"] = state["head.weight"] + torch.ones(())
        save_state(weights, state)
        assert made(maskmill, config, workspace) == NETWORK
