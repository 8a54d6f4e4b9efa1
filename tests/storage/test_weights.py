import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.files import file_digest
from storage.weights import Weights, WeightsError, find_weights, load_state, save_state

STATE = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1, 2]), "steps": torch.tensor(7)}


class Evil:
    """A pickle that creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items()
    )


class TestFindWeights:
    @pytest.mark.parametrize("text", [None, "none"])
    def test_none(self, text: str | None) -> None:
        assert find_weights(text) == Weights(None, None, "none")

    def test_torchvision(self) -> None:
        found = find_weights("torchvision:IMAGENET1K_V1")
        assert (found.torchvision, found.identity) == ("IMAGENET1K_V1", "torchvision:IMAGENET1K_V1")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
    def test_a_file_is_known_by_its_content(self, tmp_path: Path, suffix: str) -> None:
        paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
        for path in paths:
            path.write_bytes(b"same")
        first, second = (find_weights(str(path)) for path in paths)
        assert first.identity == second.identity == file_digest(paths[0])
        assert first.path == paths[0]

    def test_refuses_an_absent_file(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"no file .*x\.pth; download the weights yourself"):
            find_weights(str(tmp_path / "x.pth"))

    @pytest.mark.parametrize("text", ["weights.pkl", "imagenet", "timm:resnet18"])
    def test_refuses_another_kind(self, text: str) -> None:
        with pytest.raises(WeightsError, match=rf"expected torchvision:NAME or a file ending in .*saw '{text}'"):
            find_weights(text)


class TestState:
    def test_smoke(self, tmp_path: Path) -> None:
        path = tmp_path / "model" / "weights.safetensors"
        save_state(path, STATE)
        assert same(load_state(path), STATE)
        assert list(path.parent.iterdir()) == [path]

    @given(st.permutations(list(STATE)))
    @settings(max_examples=5, deadline=None)
    def test_same_tensors_same_bytes(self, tmp_path_factory: pytest.TempPathFactory, order: list[str]) -> None:
        folder = tmp_path_factory.mktemp("weights")
        save_state(folder / "a.safetensors", STATE)
        save_state(folder / "b.safetensors", {name: STATE[name].clone() for name in order})
        assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()

    def test_views_and_graphs(self, tmp_path: Path) -> None:
        wide = torch.rand(4, 6, requires_grad=True)
        save_state(tmp_path / "w.safetensors", {"w": wide.t()[::2]})
        assert torch.equal(load_state(tmp_path / "w.safetensors")["w"], wide.detach().t()[::2])

    @pytest.mark.parametrize("suffix", [".pth", ".pt"])
    @pytest.mark.parametrize("nested", [False, True])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_files_of_torch(self, tmp_path: Path, suffix: str, nested: bool, prefix: str) -> None:
        state: dict[str, Any] = {prefix + name: value for name, value in STATE.items()}
        path = tmp_path / f"w{suffix}"
        torch.save({"state_dict": state, "epoch": 3} if nested else state, path)
        assert same(load_state(path), STATE)

    def test_only_a_leading_prefix_goes(self, tmp_path: Path) -> None:
        torch.save({"module.module.a": torch.ones(1), "head.module.b": torch.ones(1)}, tmp_path / "w.pth")
        assert set(load_state(tmp_path / "w.pth")) == {"module.a", "head.module.b"}


class TestRefusals:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_never_unpickles(self, tmp_path: Path, zipped: bool) -> None:
        trace, path = tmp_path / "trace", tmp_path / "w.pth"
        if zipped:
            torch.save({"w": torch.ones(2), "more": Evil(trace)}, path)
        else:
            path.write_bytes(pickle.dumps(Evil(trace)))
        with pytest.raises(WeightsError, match=r"expected a safetensors file or a pth file of plain tensors, saw"):
            load_state(path)
        assert not trace.exists()

    def test_the_pickle_above_is_a_live_one(self, tmp_path: Path) -> None:
        pickle.loads(pickle.dumps(Evil(tmp_path / "trace")))
        assert (tmp_path / "trace").exists()

    @pytest.mark.parametrize("state", [[torch.ones(1)], {"w": torch.ones(1), "epoch": 3}, torch.ones(2)])
    def test_something_else(self, tmp_path: Path, state: object) -> None:
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match="expected a mapping of names to tensors, saw"):
            load_state(tmp_path / "w.pth")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("share", [0, 0.5])
    def test_a_cut_file(self, tmp_path: Path, suffix: str, share: float) -> None:
        path = tmp_path / f"w{suffix}"
        save_state(path, STATE) if suffix == ".safetensors" else torch.save(STATE, path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(WeightsError, match="expected a safetensors file or a pth file"):
            load_state(path)

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_space(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", no_space)
        with pytest.raises(OSError, match="No space"):
            save_state(tmp_path / "w.safetensors", STATE)
        assert list(tmp_path.iterdir()) == []
