from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.training import Optimisation
from storage.checkpoints import load_checkpoint
from tasks.engine import Batch, Engine, Learner, Moment, Progress, share, step_seed
from tasks.processes import Trained, fit_together
from tasks.state import State

ROWS, WIDTH = 16, 3


class Line(Learner):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(WIDTH, 1, bias=False)
        nn.init.zeros_(self.module.weight)

    @property
    def trained(self) -> nn.Module:
        return self.module

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> dict[str, Tensor]:  # noqa: ARG002
        return {"error": ((self.module(tensors["x"])[:, 0] - tensors["y"]) ** 2).mean()}


class FakeState:
    """What a training asks of the state."""

    device = torch.device("cpu")


def fit(state: State, checkpoint: Path, progress: Progress) -> Trained:
    x = torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2.0, 0.5])

    def batches(epoch: int) -> Any:
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(step_seed(0, epoch))).tolist()
        rows, part = share(order, 8)
        parts = [rows[k : k + part] for k in range(0, len(rows), part)]
        return (Batch(rows, {"x": x[rows], "y": y[rows]}) for rows in parts), len(parts)

    settings = Optimisation(epochs=3, learning_rate=0.1, optimiser="sgd", weight_decay=0.0, schedule="constant")
    learner = Line()
    options = {"validate": lambda: {"v": float(learner.module.weight.detach().sum())}, "select": "v"}
    engine = Engine(learner, settings, state.device, where="test", ids=[str(row) for row in range(ROWS)], **options)
    history = engine.fit(batches, checkpoint, progress)
    return Trained(dict(learner.module.state_dict()), history)


def fail(*_: object) -> Trained:
    raise ValueError("no such thing")


@pytest.mark.slow
class TestFitTogether:
    def test_two_processes_give_what_one_gives(self, tmp_path: Path) -> None:
        state: Any = FakeState()
        told: list[Any] = []
        alone = fit_together(fit, state, tmp_path / "one.pt", lambda *_: None, 1)
        both = fit_together(fit, state, tmp_path / "two.pt", lambda *what: told.append(what), 2)
        for name, value in alone.weights.items():
            torch.testing.assert_close(both.weights[name], value)
        assert [one[:2] for one in told] == [(1, 3), (2, 3), (3, 3)]
        assert [entry["v"] for entry in both.history] == pytest.approx([entry["v"] for entry in alone.history])
        kept = load_checkpoint(tmp_path / "two.pt")
        assert kept is not None
        assert len(kept["history"]) == 3

    def test_a_failure_is_told(self, tmp_path: Path) -> None:
        state: Any = FakeState()
        with pytest.raises(Exception, match="no such thing"):
            fit_together(fail, state, tmp_path / "c.pt", lambda *_: None, 2)
