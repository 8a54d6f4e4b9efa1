from pathlib import Path

import pytest

from storage.aside import all_aside, read_aside, set_aside
from storage.stages import StageError, StageFolder
from storage.verify import repair, verify_workspace
from storage.workspace import Workspace


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    folder = Workspace(tmp_path).stage("propose", "0" * 12)
    folder.begin({}, shards=3)
    return folder


class TestAside:
    def test_smoke(self, folder: StageFolder) -> None:
        assert read_aside(folder, 0) == {}
        assert all_aside(folder) == {}
        set_aside(folder, 1, {7: "killed its process"})
        assert read_aside(folder, 1) == {7: "killed its process"}
        assert read_aside(folder, 0) == {}

    def test_adds_to_what_is_known(self, folder: StageFolder) -> None:
        set_aside(folder, 1, {12: "b"})
        set_aside(folder, 1, {7: "a"})
        set_aside(folder, 2, {20: "c"})
        assert all_aside(folder) == {7: "a", 12: "b", 20: "c"}

    def test_is_no_shard(self, folder: StageFolder) -> None:
        set_aside(folder, 1, {7: "a"})
        assert folder.missing() == [0, 1, 2]

    def test_refuses_what_was_not_written(self, folder: StageFolder) -> None:
        set_aside(folder, 1, {7: "a"})
        path = folder.folder / "aside" / "00001.json"
        path.write_bytes(path.read_bytes().replace(b'"7"', b'"8"'))
        with pytest.raises(StageError, match=r"saw its content and its digest disagree"):
            read_aside(folder, 1)
        checked, damages = verify_workspace(Workspace(folder.folder.parents[1]))
        assert (checked, [damage.path for damage in damages]) == (3, [path])
        repair(damages)
        assert read_aside(folder, 1) == {}
