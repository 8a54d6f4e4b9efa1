import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.instance_files import files_mask
from storage.samples import Listing, MaskSource, Sample
from storage.staged import (
    FINGERPRINT,
    INSPECTED,
    Inspected,
    assemble,
    inspected_row,
    listing_digest,
    mask_source,
    read_sources,
    staged_index,
    stamp,
    stamp_all,
    thin,
    write_staged,
)
from storage.stages import StageFolder
from storage.workspace import Workspace

SECOND = 10**9


def sample(number: int, **changes: Any) -> Sample:
    mask = MaskSource("index", path=f"masks/{number}.png")
    return replace(Sample(f"i{number}", f"images/{number}.png", "train", ("cat",), f"list:{number}", mask), **changes)


def findings(height: int, checked_ns: int = 100 * SECOND) -> dict[str, Any]:
    prints = np.full(FINGERPRINT, 0.5, np.float16)
    seen = {"height": height, "width": 9, "mode": "RGB", "orientation": 1, "sha256": f"{height:064d}"}
    return {"checked_ns": checked_ns, "status": "ok", "reason": "", "fingerprint": prints, **seen}


def staged(workspace: Workspace, key: str, shards: list[list[dict[str, Any]]]) -> StageFolder:
    folder = workspace.stage("stage", key)
    folder.begin({"listing": key}, shards=len(shards))
    for number, rows in enumerate(shards):
        folder.write(number, tables={"facts": pa.Table.from_pylist(rows, INSPECTED)})
    return folder


class TestStamp:
    def test_smoke(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"four")
        os.utime(tmp_path / "a", ns=(7, 7 * SECOND))
        assert stamp(tmp_path, "a") == (4, 7 * SECOND)

    @pytest.mark.parametrize("name", ["absent", "a\0b", "n" * 300])
    def test_nothing_there(self, tmp_path: Path, name: str) -> None:
        assert stamp(tmp_path, name) == (-1, -1)

    def test_digest_follows_lists_and_files(self, tmp_path: Path) -> None:
        listing = Listing([sample(0), sample(1, mask=None)], ("cat",))
        stamps = stamp_all(tmp_path, listing)
        assert stamps == [((-1, -1), (-1, -1))] * 2
        digests = {listing_digest(listing, stamps)}
        (tmp_path / "masks").mkdir()
        (tmp_path / "masks" / "0.png").write_bytes(b"x")
        digests.add(listing_digest(listing, stamp_all(tmp_path, listing)))
        digests.add(listing_digest(Listing(listing.samples, ("dog",)), stamps))
        digests.add(listing_digest(Listing([sample(0, labels=()), listing.samples[1]], ("cat",)), stamps))
        assert len(digests) == 4
        assert listing_digest(Listing([sample(0), sample(1, mask=None)], ("cat",)), stamps) in digests

    def test_every_file_of_a_mask_is_stamped(self, tmp_path: Path) -> None:
        listing = Listing([sample(0, mask=files_mask(["a", "b"], ["c"]))], ("cat",))
        stamps = [stamp_all(tmp_path, listing)[0][1]]
        for name in ("c", "a", "b"):
            (tmp_path / name).write_bytes(b"12")
            stamps.append(stamp_all(tmp_path, listing)[0][1])
        assert len(set(stamps)) == 4
        assert stamps[-1][0] == 6


class TestThin:
    @given(st.integers(0, 30), st.none() | st.integers(1, 40))
    def test_spread_evenly(self, total: int, limit: int | None) -> None:
        listing = Listing([sample(number) for number in range(total)], ("cat",))
        found = [int(one.image_id[1:]) for one in thin(listing, limit).samples]
        if limit is None or limit >= total:
            assert found == list(range(total))
            return
        assert len(found) == limit
        assert found[0] == 0
        steps = np.diff([*found, total])
        assert steps.min() >= total // limit
        assert steps.max() <= -(-total // limit)


class TestInspected:
    def find(self, workspace: Workspace, mtime: int = 50 * SECOND) -> dict[str, Any] | None:
        return Inspected(workspace, workspace.stage("stage", "now"), 10**6).find("images/0.png", (4, mtime))

    def test_smoke(self, workspace: Workspace) -> None:
        staged(workspace, "old", [[inspected_row(sample(0), (4, 50 * SECOND), findings(7), None)]])
        found = self.find(workspace)
        assert found is not None
        assert (found["height"], found["sha256"], found["checked_ns"]) == (7, f"{7:064d}", 100 * SECOND)
        again = inspected_row(sample(0), (4, 50 * SECOND), found, None)
        assert pa.Table.from_pylist([again], INSPECTED).num_rows == 1

    def test_another_time_or_size_is_another_file(self, workspace: Workspace) -> None:
        staged(workspace, "old", [[inspected_row(sample(0), (4, 50 * SECOND), findings(7), None)]])
        known = Inspected(workspace, workspace.stage("stage", "now"), 10**6)
        assert known.find("images/0.png", (4, 51 * SECOND)) is None
        assert known.find("images/0.png", (5, 50 * SECOND)) is None
        assert known.find("images/1.png", (4, 50 * SECOND)) is None

    @pytest.mark.parametrize(("mtime", "trusted"), [(97, True), (98, False), (99, False), (150, False), (-1, False)])
    def test_a_file_that_was_fresh_is_not_trusted(self, workspace: Workspace, mtime: int, trusted: bool) -> None:
        staged(workspace, "old", [[inspected_row(sample(0), (4, mtime * SECOND), findings(7), None)]])
        assert (self.find(workspace, mtime * SECOND) is not None) == trusted

    @pytest.mark.parametrize("change", [{"status": "quarantined"}, {"width": 1001, "height": 1000}])
    def test_what_was_refused_or_is_too_large_now_is_looked_at_again(
        self, workspace: Workspace, change: dict[str, Any]
    ) -> None:
        staged(workspace, "old", [[inspected_row(sample(0), (4, 50 * SECOND), findings(7) | change, None)]])
        assert self.find(workspace) is None

    def test_only_the_latest_stage_and_its_committed_shards(self, workspace: Workspace) -> None:
        rows = [[inspected_row(sample(n), (4, 50 * SECOND), findings(n + 1), None)] for n in range(2)]
        staged(workspace, "older", [rows[1]])
        latest = staged(workspace, "later", rows)
        os.utime(workspace.stage("stage", "older").folder / "manifest.json", ns=(0, 0))
        latest.log.withdraw("00001")
        known = Inspected(workspace, workspace.stage("stage", "now"), 10**6)
        assert known.find("images/0.png", (4, 50 * SECOND)) is not None
        assert known.find("images/1.png", (4, 50 * SECOND)) is None
        assert Inspected(workspace, latest, 10**6).find("images/0.png", (4, 50 * SECOND)) is None


class TestAssemble:
    def test_sources_follow_the_run_order(self, workspace: Workspace) -> None:
        heights = [600, 100, 300, 120]
        rows = [inspected_row(sample(n), (4, 0), findings(height), "ab") for n, height in enumerate(heights)]
        folder = staged(workspace, "now", [rows[:3], rows[3:]])
        index, sources = assemble(folder, ("cat",))
        assert index.ids == sources.column("image_id").to_pylist() == ["i1", "i3", "i2", "i0"]
        leaks = pa.table({"image_id": pa.array([], pa.string())})
        paths = write_staged(folder, index, sources, leaks)
        assert [path.name for path in paths] == ["images.parquet", "sources.parquet", "leaks.parquet"]
        assert staged_index(folder).key == index.key
        assert read_sources(folder).to_pylist() == sources.to_pylist()

    def test_mask_source(self) -> None:
        for mask in (None, MaskSource("binary", path="m.png"), MaskSource("coco", text="[]"), files_mask(["a"])):
            row = inspected_row(sample(0, mask=mask), (4, 0), findings(1), None)
            assert mask_source(row) == mask
