"""A run after the data set has changed does what is new, and what it takes over is what it would have computed."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.commits import CommitLog
from storage.index import read_index
from storage.labels import open_labels
from storage.stages import FACTS, StageFolder
from storage.verify import verify_workspace
from storage.workspace import Workspace
from tests.flows.conftest import Reference
from tests.flows.contents import contents
from tests.flows.launcher import Launcher

Run = Callable[..., Path]
SHARDED = ("truth", "propose", "mask", "localize", "floors", "evaluate")


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def write_rows(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "labels.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def add(root: Path, count: int, *, split: str = "val", place: int | None = None) -> list[str]:
    """Add images that look like others turned over; returns their paths."""
    rows, added = rows_of(root), []
    for number in range(count):
        like = rows[number]
        row = {**like, "split": split}
        for column in ("path", "mask"):
            new = str(Path(like[column]).with_name(f"new{number}{Path(like[column]).suffix}"))
            with Image.open(root / like[column]) as image:
                image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(root / new)
            row[column] = new
        rows.insert(len(rows) if place is None else place, row)
        added.append(row["path"])
    write_rows(root, rows)
    return added


def computed(workspace: Path, known: set[str]) -> dict[str, list[set[str]]]:
    """Images of the shards that were computed in folders that are not known, by stage."""
    found: dict[str, list[set[str]]] = {}
    for folder in Workspace(workspace).stages():
        stage = folder.name.partition("-")[0]
        if folder.name in known or stage not in SHARDED:
            continue
        index = read_index(workspace / "stages" / folder.manifest["index_stage"] / "images.parquet")
        parts = index.shards(int(folder.manifest["basis"]["shard_images"]))
        fresh = [part for part in parts if "adopted" not in CommitLog(folder.folder).read(f"{part.number:05d}").facts]
        found.setdefault(stage, []).append({index.paths[row] for part in fresh for row in part.rows})
    return found


def masks(workspace: Path) -> dict[str, list[bytes]]:
    """Every label set's mask by path of its image."""
    found: dict[str, list[bytes]] = {}
    for name in Workspace(workspace).read_run()["labels"]:
        store = open_labels(Workspace(workspace), StageFolder(workspace / "stages" / name))
        for row, mask in store:
            found.setdefault(store.index.paths[row], []).append(mask.tobytes())
    return found


def check_tables(workspace: Path) -> None:
    """Every row of the new label sets' facts names the image that it is about."""
    for name in Workspace(workspace).read_run()["labels"]:
        folder = StageFolder(workspace / "stages" / name)
        index = read_index(workspace / "stages" / folder.manifest["index_stage"] / "images.parquet")
        proposal = StageFolder(workspace / "stages" / folder.manifest["basis"]["proposal"])
        room = proposal.spec("score").shard_rows
        for part in index.shards(int(folder.manifest["basis"]["shard_images"])):
            for table in (folder.shard_table(part.number), proposal.shard_table(part.number)):
                for fact in table.to_pylist():
                    assert fact["row"] in part.rows
                    assert index.ids[fact["row"]] == fact["image_id"]
                    assert part.number * room <= fact["pair"] < (part.number + 1) * room
        assert folder.table(FACTS, ["pair"]).equals(proposal.table(FACTS, ["pair"]))


@pytest.fixture
def run(maskmill: Launcher, reference: Reference, workspace: Path, own_data: Path) -> Run:
    """Run the reference's configuration on the data set that may be changed, in a copy of its workspace."""

    def again(where: Path = workspace, *options: object) -> Path:
        done = maskmill.run("run", reference.config, "-w", where, "--set", f"dataset.root={own_data}", *options)
        assert done.status == 0, done.err
        (where / "said").write_text(done.err)
        return where

    return again


def folders(workspace: Path) -> set[str]:
    return {path.name for path in workspace.glob("stages/*")}


class TestAdopt:
    def test_three_new_images(self, run: Run, own_data: Path, tmp_path: Path, workspace: Path) -> None:
        known, models = folders(workspace), {*workspace.glob("models/*")}
        added = add(own_data, 3)
        run()
        said = (workspace / "said").read_text()
        assert "stage      3 new since the last run: " in said
        assert "refine     1 shards done, 4 as before" in said
        done = computed(workspace, known)
        assert set(done) == set(SHARDED)
        assert all(images == set(added) for stage in done.values() for images in stage)
        assert {*workspace.glob("models/*")} == models
        assert verify_workspace(Workspace(workspace))[1] == []
        assert Workspace(workspace).read_run()["news"] == {"added": 3, "removed": 0, "changed": 0}
        (workspace / "said").unlink()
        fresh, extended = contents(run(tmp_path / "fresh")), contents(workspace)
        fresh.pop("said")
        assert {name: extended.get(name) for name in fresh} == fresh

    def test_plan_tells_what_is_known(
        self, maskmill: Launcher, reference: Reference, own_data: Path, workspace: Path
    ) -> None:
        add(own_data, 3)
        where = (reference.config, "-w", workspace, "--set", f"dataset.root={own_data}")
        assert maskmill.run("stage", *where).status == 0
        planned = maskmill.run("plan", *where)
        assert planned.status == 0, planned.err
        assert "known      4 of 5 shards, from earlier runs" in planned.out

    def test_new_images_come_last_wherever_they_are_listed(
        self, run: Run, own_data: Path, tmp_path: Path, workspace: Path
    ) -> None:
        known = folders(workspace)
        before = read_index(workspace / "images.parquet").ids
        added = add(own_data, 2, place=5)
        run()
        assert read_index(workspace / "images.parquet").ids[: len(before)] == before
        assert all(images == set(added) for stage in computed(workspace, known).values() for images in stage)
        check_tables(workspace)
        assert masks(workspace) == masks(run(tmp_path / "fresh"))

    def test_a_changed_and_a_removed_image(self, run: Run, own_data: Path, workspace: Path) -> None:
        known, before = folders(workspace), masks(workspace)
        index = read_index(workspace / "images.parquet")
        val = [row for row, split in enumerate(index.splits) if split == "val"]
        changed, removed = index.paths[val[0]], index.paths[val[-1]]
        shards = index.shards(6)
        touched = {index.paths[row] for part in shards if {val[0], val[-1]} & {*part.rows} for row in part.rows}
        with Image.open(own_data / changed) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(own_data / changed)
        write_rows(own_data, [row for row in rows_of(own_data) if row["path"] != removed])
        run()
        assert Workspace(workspace).read_run()["news"] == {"added": 0, "removed": 1, "changed": 1}
        done = computed(workspace, known)
        assert set(done) == set(SHARDED)
        assert all(images == touched - {removed} for stage in done.values() for images in stage)
        check_tables(workspace)
        after = masks(workspace)
        assert after.keys() == before.keys() - {removed}
        assert {name for name in after if after[name] != before[name]} <= {changed}

    def test_room_for_more_pairs(self, run: Run, own_data: Path, workspace: Path) -> None:
        known, before = folders(workspace), masks(workspace)
        rows = rows_of(own_data)
        classes = sorted({label for row in rows for label in row["labels"].split(";") if label})
        added = add(own_data, 6)
        many = ";".join(classes)
        write_rows(own_data, [{**row, "labels": many} if row["path"] in added else row for row in rows_of(own_data)])
        run()
        assert all(images == set(added) for stage in computed(workspace, known).values() for images in stage)
        check_tables(workspace)
        after = masks(workspace)
        assert {name: after[name] for name in before} == before
        assert verify_workspace(Workspace(workspace))[1] == []

    def test_another_setting_takes_nothing_over(self, run: Run, own_data: Path, workspace: Path) -> None:
        known = folders(workspace)
        add(own_data, 1)
        run(workspace, "--set", "proposals.1.truncation=40", "--set", "proposals.0.truncation=60")
        done = computed(workspace, known)
        assert [len(images) for images in done["propose"] + done["mask"]] == [25] * 4
        assert [len(images) for images in done["truth"]] == [1]

    @pytest.mark.slow
    def test_a_network_that_was_given(self, run: Run, own_data: Path, reference: Reference, tmp_path: Path) -> None:
        (weights,) = (reference.workspace / "models").glob("classifier-*/weights.safetensors")
        given, where = ("--set", f"classifier.trained={weights}"), tmp_path / "given"
        run(where, *given)
        known, added = folders(where), add(own_data, 2, split="train")
        run(where, *given)
        done = computed(where, known)
        assert set(done) == set(SHARDED)
        assert all(images == set(added) for stage in done.values() for images in stage)

    def test_a_network_that_was_trained_anew_takes_nothing_over(
        self, run: Run, own_data: Path, workspace: Path
    ) -> None:
        known = folders(workspace)
        add(own_data, 1, split="train")
        run()
        assert len(list(workspace.glob("models/*"))) == 2
        assert [len(images) for images in computed(workspace, known)["propose"]] == [25, 25]

    def test_a_damaged_shard_is_computed(self, run: Run, own_data: Path, workspace: Path) -> None:
        known, before = folders(workspace), masks(workspace)
        added = add(own_data, 1)
        damaged = workspace / "stages" / Workspace(workspace).read_run()["labels"][0] / "label.zarr/c/1/0/0"
        damaged.write_bytes(damaged.read_bytes()[:-1])
        run()
        counts = sorted(len(images) for images in computed(workspace, known)["mask"])
        assert counts == [len(added), 6 + len(added)]
        after = masks(workspace)
        assert {name: after[name] for name in before} == before

    @pytest.mark.slow
    def test_networks_that_learned_from_masks(
        self, maskmill: Launcher, own_data: Path, tmp_path: Path, write_config: Callable[..., Path]
    ) -> None:
        """New images outside of their splits train nothing; changed ground truth of their own does."""
        optimise = {"epochs": 2, "batch_size": 4}
        decoder = {"model": "fcam", "proposal": "grad_cam-S5", "widths": [16, 8, 8, 8, 8], "optimise": optimise}
        unet = {"model": "unet", "width": 16, "optimise": optimise}
        taught = {**unet, "name": "ceiling", "labels": "ground_truth"}
        config = write_config(own_data, proposals=[{"method": "grad_cam"}], train=[decoder, unet, taught])
        command, models = ("run", config, "-w", tmp_path / "w"), tmp_path / "w" / "models"
        assert maskmill.run(*command).status == 0
        known, trained = folders(tmp_path / "w"), {path.name for path in models.iterdir()}
        assert len(trained) == 4
        added = add(own_data, 2)
        done = maskmill.run(*command)
        assert done.status == 0, done.err
        fresh = {path.name for path in models.iterdir()} - trained
        facts = [CommitLog(models / name).read("model").facts for name in fresh]
        assert len(fresh) == 3
        assert {one["adopted"]["folder"] for one in facts} <= trained
        everything = computed(tmp_path / "w", known)
        assert all(images == set(added) for stage in everything.values() for images in stage)
        # The masks of two training images change places: only the network that learns from them is trained anew.
        rows = [row for row in rows_of(own_data) if row["split"] == "train"][:2]
        one, other = (own_data / row["mask"] for row in rows)
        data = one.read_bytes(), other.read_bytes()
        one.write_bytes(data[1])
        other.write_bytes(data[0])
        again = maskmill.run(*command)
        assert again.status == 0, again.err
        assert again.err.count("epochs done") >= 1
        newest = {path.name for path in models.iterdir()} - trained - fresh
        assert any("adopted" not in CommitLog(models / name).read("model").facts for name in newest)

    @pytest.mark.slow
    @pytest.mark.parametrize("point", ["commit:3", "commit:9", "commit:15", "facts:2"])
    def test_killed_while_taking_over(
        self, maskmill: Launcher, reference: Reference, run: Run, own_data: Path, workspace: Path, point: str
    ) -> None:
        known = folders(workspace)
        added = add(own_data, 3)
        other = ("--set", f"dataset.root={own_data}")
        died = maskmill.run("run", reference.config, "-w", workspace, *other, MASKMILL_DIE_AT=point)
        assert (died.status or 0) < 0
        run()
        assert all(images == set(added) for stage in computed(workspace, known).values() for images in stage)
        assert verify_workspace(Workspace(workspace))[1] == []

    def test_sizes_of_any_kind(self, maskmill: Launcher, reference: Reference, own_data: Path, tmp_path: Path) -> None:
        """Large images lie on canvases of their own, which shift against each other when one grows."""
        rows = rows_of(own_data)
        for number, row in enumerate(rows):
            if number % 3 == 0:
                for column, how in (("path", Image.Resampling.BILINEAR), ("mask", Image.Resampling.NEAREST)):
                    with Image.open(own_data / row[column]) as image:
                        image.resize((520, 100), how).save(own_data / row[column])
        options = ("-w", tmp_path / "w", "--set", f"dataset.root={own_data}", "--set", "refine=[{step: otsu}]")
        command = ["run", reference.config, *options]
        assert maskmill.run(*command).status == 0
        known, before = folders(tmp_path / "w"), masks(tmp_path / "w")
        (added,) = add(own_data, 1, place=1)
        with Image.open(own_data / added) as image:
            assert image.size == (520, 100)
        removed = next(row["path"] for row in rows_of(own_data) if row["split"] == "val" and row["path"] != added)
        write_rows(own_data, [row for row in rows_of(own_data) if row["path"] != removed])
        done = maskmill.run(*command)
        assert done.status == 0, done.err
        for images in computed(tmp_path / "w", known)["propose"]:
            assert added in images
            assert len(images) <= 11
        check_tables(tmp_path / "w")
        after = masks(tmp_path / "w")
        assert after.keys() == (before.keys() - {removed}) | {added}
        differing = {name for name in before.keys() & after.keys() if before[name] != after[name]}
        assert not differing
        assert np.frombuffer(after[added][0], np.uint8).size == 520 * 100
