from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.adopt_model import KIN, adopt_model, model_kin
from storage.commits import CommitLog
from storage.files import write_bytes_atomic
from storage.models import UNIT, WEIGHTS, is_saved, weights_digest
from storage.workspace import Workspace

Model = Callable[..., Path]


@pytest.fixture
def model(workspace: Workspace) -> Model:
    """A trained model of a kin."""

    def make(key: str, kin: str, data: bytes = b"weights", *, saved: bool = True) -> Path:
        folder = workspace.model("decoder", key)
        assert not adopt_model(folder, kin)
        if saved:
            write_bytes_atomic(folder / WEIGHTS, data)
            CommitLog(folder).commit(UNIT, [folder / WEIGHTS], facts={"epochs": 2}, began=0.0, device="cpu")
        return folder

    return make


class TestAdoptModel:
    def test_smoke(self, workspace: Workspace, model: Model) -> None:
        known, folder = model("1", "kin"), workspace.model("decoder", "2")
        model("0", "other")
        assert adopt_model(folder, "kin")
        assert is_saved(folder)
        assert weights_digest(folder) == weights_digest(known)
        record = CommitLog(folder).read(UNIT)
        assert (record.facts["adopted"]["folder"], record.facts["epochs"], record.device) == (known.name, 2, "cpu")
        assert (folder / KIN).read_bytes() == (known / KIN).read_bytes()

    @pytest.mark.parametrize(("name", "kin"), [("decoder", "other"), ("segmenter", "kin")])
    def test_others_are_not_taken(self, workspace: Workspace, model: Model, name: str, kin: str) -> None:
        model("1", "kin")
        assert not adopt_model(workspace.model(name, "2"), kin)

    def test_one_in_training_is_not_taken(self, workspace: Workspace, model: Model) -> None:
        model("1", "kin", saved=False)
        assert not adopt_model(workspace.model("decoder", "2"), "kin")

    @pytest.mark.parametrize("name", [WEIGHTS, KIN, f"commits/{UNIT}.json"])
    def test_damage_is_not_taken(self, workspace: Workspace, model: Model, name: str) -> None:
        path = model("1", "kin") / name
        path.write_bytes(path.read_bytes()[:-1])
        folder = workspace.model("decoder", "2")
        assert not adopt_model(folder, "kin")
        assert not is_saved(folder)


class TestModelKin:
    @pytest.mark.parametrize(
        ("basis", "sha", "same"),
        [
            ({"index": "2"}, "0", True),
            ({}, "0", True),
            ({"images": "2"}, "0", False),
            ({"index": "1"}, "1", False),
        ],
    )
    def test_smoke(self, workspace: Workspace, basis: dict[str, Any], sha: str, same: bool) -> None:
        def kin(basis: dict[str, Any], sha: str) -> str:
            texts = {name: ["a", "b", sha] for name in ("mask_kind", "mask_sha256", "boxes", "orientation")}
            folder = workspace.model("decoder", "1")
            return model_kin(workspace.root / "stages", folder, basis, ("cat",), pa.table(texts), [0, 2])

        first = kin({"index": "1"}, "0")
        assert (kin(basis, sha) == first) is same
