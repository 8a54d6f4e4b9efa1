import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from storage.checkpoints import CheckpointError, load_checkpoint, remove_checkpoint, save_checkpoint


@pytest.fixture
def state() -> dict[str, object]:
    torch.manual_seed(0)
    module = nn.Linear(8, 4)
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.rand(2, 8)).sum().backward()
    optimiser.step()
    history = [{"epoch": 1, "loss": 0.5}]
    return {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "history": history}


class TestCheckpoint:
    def test_round_trip(self, tmp_path: Path, state: dict[str, object]) -> None:
        path = tmp_path / "model" / "checkpoint.pt"
        save_checkpoint(path, state)
        found = load_checkpoint(path)
        assert found is not None
        torch.testing.assert_close(found, state, rtol=0, atol=0)
        assert list(path.parent.iterdir()) == [path]

    def test_none_where_there_is_none(self, tmp_path: Path) -> None:
        assert load_checkpoint(tmp_path / "checkpoint.pt") is None
        remove_checkpoint(tmp_path / "checkpoint.pt")

    def test_remove(self, tmp_path: Path, state: dict[str, object]) -> None:
        save_checkpoint(tmp_path / "checkpoint.pt", state)
        remove_checkpoint(tmp_path / "checkpoint.pt")
        assert list(tmp_path.iterdir()) == []

    def test_full_disk_keeps_the_one_before(
        self, tmp_path: Path, state: dict[str, object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_space(_handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        path = tmp_path / "checkpoint.pt"
        save_checkpoint(path, state)
        monkeypatch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, {"module": {}})
        monkeypatch.undo()
        torch.testing.assert_close(load_checkpoint(path), state, rtol=0, atol=0)
        assert list(tmp_path.iterdir()) == [path]

    def test_refuses_a_cut_file(self, tmp_path: Path, state: dict[str, object]) -> None:
        path = tmp_path / "checkpoint.pt"
        save_checkpoint(path, state)
        data = path.read_bytes()
        for end in (0, 10, 64, 100, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:end])
            with pytest.raises(
                CheckpointError, match=r"checkpoint\.pt: expected a checkpoint.*delete it to start anew"
            ):
                load_checkpoint(path)

    def test_refuses_a_flipped_bit_anywhere(self, tmp_path: Path, state: dict[str, object]) -> None:
        path = tmp_path / "checkpoint.pt"
        save_checkpoint(path, state)
        data = path.read_bytes()
        for place in range(0, len(data), 97):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
            with pytest.raises(CheckpointError, match="disagree"):
                load_checkpoint(path)
