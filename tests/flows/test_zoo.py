"""Odd, damaged and hostile files never end a run; lists that contradict themselves end it before any work."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.labels import open_labels
from storage.workspace import Workspace
from tests.flows.conftest import Reference
from tests.flows.launcher import Launcher
from tests.storage.zoo import build_zoo

NETWORK = {"backbone": "small", "input_size": 32, "train": {"epochs": 1}, "train_split": ["all"]}


@pytest.mark.slow
class TestZoo:
    def test_whole_run(self, maskmill: Launcher, write_config: Callable[..., Path], tmp_path: Path) -> None:
        items = build_zoo(tmp_path / "zoo")
        config = write_config(
            tmp_path / "zoo", dataset={"format": "folder", "root": str(tmp_path / "zoo")}, classifier=NETWORK
        )
        workspace = tmp_path / "workspace"
        done = maskmill.run("run", config, "-w", workspace)
        assert done.status == 0, done.err

        index = pq.ParquetFile(workspace / "images.parquet").read().to_pylist()
        found = {row["path"].replace("\\n", "\n"): row for row in index}
        assert found.keys() == {item.name for item in items}
        for item in items:
            assert found[item.name]["status"] == item.outcome, item.name
            assert item.reason_contains in found[item.name]["reason"], item.name

        table = pq.ParquetFile(next(workspace.glob("reports/*/quarantine.parquet"))).read().to_pylist()
        refused = {row["image_id"]: row["reason"] for row in index if row["status"] == "quarantined"}
        assert {row["image_id"]: row["reason"] for row in table} == refused
        assert f"{len(refused)} of {len(index)} images are quarantined" in done.err

        store = open_labels(Workspace(workspace))
        written = {row for row, _ in store}
        assert written == {row for row, entry in enumerate(index) if entry["status"] == "ok"}
        for shard in store.index.shards(6):
            masks = store.shard_masks(shard)
            for row in shard.rows:
                if not store.index.ok[row]:
                    assert (masks[row - shard.rows.start] == 255).all()

        assert maskmill.run("verify", workspace).status == 0
        strict = maskmill.run("run", config, "-w", workspace, "--strict")
        assert strict.status == 1
        assert "quarantined" in strict.err


def grey(path: Path, values: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> None:
    Image.fromarray(values).save(path)


def break_label(root: Path) -> str:
    return edit(root, "00003", lambda row: [row[0], "unicorn", *row[2:]])


def break_space(root: Path) -> str:
    return edit(root, "00003", lambda row: [row[0], "coins ", *row[2:]])


def break_id(root: Path) -> str:
    return edit(root, "00003", lambda row: ["images/00002.jpg", *row[1:]])


def break_size(root: Path) -> str:
    grey(root / "masks/00003.png", np.zeros((10, 12), np.uint8))
    return "masks/00003.png"


def break_values(root: Path) -> str:
    edit(root, "00003", lambda row: [row[0], "coins", *row[2:]])
    grey(root / "masks/00003.png", np.where(np.eye(64, dtype=bool), 255, 0).astype(np.uint8))
    return "masks/00003.png"


def break_range(root: Path) -> str:
    grey(root / "masks/00003.png", np.full((64, 64), 5, np.uint8))
    return "masks/00003.png"


def lose_mask(root: Path) -> str:
    (root / "masks/00003.png").unlink()
    return "masks/00003.png"


def edit(root: Path, name: str, change: Callable[[list[str]], list[str]]) -> str:
    table = root / "labels.csv"
    lines = table.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if name in line)
    lines[place] = ",".join(change(lines[place].split(",")))
    table.write_text("\n".join(lines) + "\n")
    return "labels.csv"


CASES: list[tuple[Callable[[Path], str], str]] = [
    (break_label, "saw 'unicorn'"),
    (break_space, "differs from 'coins' by surrounding space"),
    (break_id, "saw 'images/00002.jpg'"),
    (break_size, "expected the image's size 64 x 64, saw 12 x 10"),
    (break_values, "set dataset.mask_values: binary"),
    (break_range, "saw 5 (4096 pixels)"),
    (lose_mask, "file not found"),
]


class TestContradictions:
    @pytest.mark.parametrize(("damage", "told"), CASES, ids=[case[0].__name__ for case in CASES])
    def test_names_file_and_row(
        self,
        maskmill: Launcher,
        own_data: Path,
        write_config: Callable[..., Path],
        tmp_path: Path,
        damage: Callable[[Path], str],
        told: str,
    ) -> None:
        file = damage(own_data)
        done = maskmill.run("run", write_config(own_data), "-w", tmp_path / "workspace")
        assert done.status == 1
        assert told in done.err
        assert file in done.err
        # Line 1 is the header; image 3 is listed fourth.
        assert "labels.csv line 5" in done.err or "labels.csv:5" in done.err
        assert not list((tmp_path / "workspace").glob("models/*"))

    def test_a_mended_list_goes_on(
        self,
        maskmill: Launcher,
        reference: Reference,
        own_data: Path,
        write_config: Callable[..., Path],
        tmp_path: Path,
    ) -> None:
        whole = (own_data / "labels.csv").read_text()
        break_label(own_data)
        config = write_config(own_data)
        assert maskmill.run("stage", config, "-w", tmp_path / "workspace").status == 1
        (own_data / "labels.csv").write_text(whole)
        assert maskmill.run("stage", config, "-w", tmp_path / "workspace").status == 0
        index = "images.parquet"
        assert (tmp_path / "workspace" / index).read_bytes() == (reference.workspace / index).read_bytes()
