import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.models import WEIGHTS, describe, is_saved, weights_digest
from storage.verify import repair, verify_workspace
from storage.workspace import Workspace


@pytest.fixture
def whole(workspace: Workspace, fill: Callable[[Workspace], Workspace]) -> Workspace:
    return fill(workspace)


def files_of(workspace: Workspace) -> list[Path]:
    return sorted(path for path in workspace.root.rglob("*") if path.is_file() and path.name != "lock")


def flip(path: Path, random_: random.Random) -> bytes:
    """Flip one bit of a file; returns the bytes before."""
    before = path.read_bytes()
    place = random_.randrange(len(before))
    path.write_bytes(before[:place] + bytes([before[place] ^ 1 << random_.randrange(8)]) + before[place + 1 :])
    return before


class TestVerify:
    def test_smoke(self, whole: Workspace) -> None:
        assert verify_workspace(whole) == (len(files_of(whole)), [])

    @pytest.mark.parametrize("seed", range(3))
    def test_one_flipped_bit_in_any_file_is_found(self, whole: Workspace, seed: int) -> None:
        random_ = random.Random(seed)
        for path in files_of(whole):
            before = flip(path, random_)
            assert path in [damage.path for damage in verify_workspace(whole)[1]], path
            path.write_bytes(before)
        assert verify_workspace(whole)[1] == []

    def test_a_cut_or_missing_file_is_found(self, whole: Workspace) -> None:
        for path in files_of(whole):
            if "commits" in path.parts or path.name == "manifest.json":
                continue  # without its record a unit does not exist, and a manifest is written anew
            before = path.read_bytes()
            path.write_bytes(before[:-1])
            assert path in [damage.path for damage in verify_workspace(whole)[1]]
            path.unlink()
            if path.parent != whole.root:  # the next run writes those of the root anew
                found = {damage.path: damage.problem for damage in verify_workspace(whole)[1]}
                assert "No such file" in found[path]
            path.write_bytes(before)

    def test_damage_says_what_and_where(self, whole: Workspace) -> None:
        (whole.report("r") / "index.html").write_bytes(b"<!doctype htm>")
        (damage,) = verify_workspace(whole)[1]
        assert damage.problem.startswith("expected sha256 ")
        assert ", saw " in damage.problem
        assert damage.remedy == whole.report("r") / "commits" / "report.json"

    def test_a_stray_temporary_is_no_damage(self, whole: Workspace) -> None:
        (whole.stage("mask", "b" * 12).folder / "commits" / ".00009.json.0123.tmp").write_bytes(b"half")
        assert verify_workspace(whole)[1] == []

    def test_refuses_nothing_about_an_empty_folder(self, workspace: Workspace) -> None:
        assert verify_workspace(workspace) == (0, [])


class TestRepair:
    def test_damaged_units_are_withdrawn(self, whole: Workspace) -> None:
        masks = whole.stage("mask", "b" * 12)
        for name in ("label.zarr/c/0/0/0", "facts/00000.parquet", "commits/00001.json"):
            flip(masks.folder / name, random.Random(1))
        flip(whole.model("classifier", "k") / WEIGHTS, random.Random(1))
        damages = verify_workspace(whole)[1]
        assert len(damages) == 4
        assert repair(damages) == 3
        assert verify_workspace(whole)[1] == []
        assert masks.missing() == [0, 1]
        assert not is_saved(whole.model("classifier", "k"))
        assert whole.stage("stage", "a" * 12).complete

    def test_twice_is_harmless(self, whole: Workspace) -> None:
        flip(whole.report("r") / "index.html", random.Random(1))
        damages = verify_workspace(whole)[1]
        assert [repair(damages), repair(damages)] == [1, 1]

    def test_without_its_metadata_a_folder_goes_as_a_whole(self, whole: Workspace) -> None:
        masks = whole.stage("mask", "b" * 12).folder
        flip(masks / "label.zarr/zarr.json", random.Random(1))
        flip(whole.root / "run.json", random.Random(1))
        assert repair(verify_workspace(whole)[1]) == 2
        assert not masks.exists()
        assert verify_workspace(whole)[1] == []

    def test_an_index_that_no_stage_committed_goes(self, whole: Workspace) -> None:
        flip(whole.index_path, random.Random(1))
        assert repair(verify_workspace(whole)[1]) == 1
        assert not whole.index_path.exists()


class TestModels:
    def test_smoke(self, whole: Workspace) -> None:
        folder = whole.model("classifier", "k")
        assert is_saved(folder)
        assert describe(folder) == {"backbone": "small"}
        # SHA-256 of the bytes 0 to 99.
        assert weights_digest(folder) == "bce0aff19cf5aa6a7469a30d61d04e4376e4bbf6381052ee9e7f33925c954d52"
