import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.training import Optimisation
from storage.checkpoints import CheckpointError, load_checkpoint
from tasks.engine import Batch, Batches, Engine, Learner, Moment, TrainingError, step_seed
from tasks.rates import rate_factor

CPU = torch.device("cpu")
ROWS, WIDTH = 11, 6


class KilledError(Exception):
    pass


class Regression(Learner):
    """Squared error of a small network with everything that has state: batch norm, dropout."""

    def __init__(self, module: nn.Module | None = None, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.module = module or nn.Sequential(
            nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1)
        )
        self.moments: list[Moment] = []

    @property
    def trained(self) -> nn.Module:
        return self.module

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> dict[str, Tensor]:  # noqa: ARG002
        error = self.module(tensors["images"]).ravel().float() - tensors["targets"]
        return {"error": (error**2).mean(), "size": 0.0 * error.sum()}

    def stepped(self, moment: Moment) -> None:
        self.moments.append(moment)


def batches(size: int = 4, spoiled: int | None = None) -> Batches:
    torch.manual_seed(7)
    images, targets = torch.rand(ROWS, WIDTH), torch.rand(ROWS)
    if spoiled is not None:
        images[spoiled] = math.inf

    def make(epoch: int) -> Any:
        generator = torch.Generator().manual_seed(step_seed(0, epoch))
        parts = torch.split(torch.randperm(ROWS, generator=generator), size)
        return (Batch(part.tolist(), {"images": images[part], "targets": targets[part]}) for part in parts), len(parts)

    return make


def engine(learner: Learner | None = None, **settings: Any) -> Engine:
    ids = [f"image {row}" for row in range(ROWS)]
    wanted = {"epochs": 5, "batch_size": 4, "learning_rate": 0.05, **settings}
    options = {name: wanted.pop(name) for name in ("validate", "select") if name in wanted}
    return Engine(learner or Regression(), Optimisation(**wanted), CPU, where="here", ids=ids, **options)


def quiet(*_: object) -> None:
    pass


def same(one: Engine, other: Engine) -> bool:
    states = one.learner.trained.state_dict(), other.learner.trained.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


class TestEngine:
    def test_smoke(self) -> None:
        made, told = engine(epochs=30), []
        history = made.fit(batches(), None, lambda *what: told.append(what))
        assert history[-1]["loss"] < 0.6 * history[0]["loss"]
        assert history[0]["loss"] == pytest.approx(history[0]["error"])
        assert told == [(epoch + 1, 30, entry["loss"]) for epoch, entry in enumerate(history)]

    def test_one_plain_step_by_hand(self) -> None:
        module = nn.Linear(WIDTH, 1, bias=False)
        nn.init.zeros_(module.weight)
        settings = {"optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "schedule": "constant", "epochs": 1}
        batch = Batch([0], {"images": torch.ones(1, WIDTH), "targets": torch.ones(1)})
        engine(Regression(module), **settings).fit(lambda _: (iter([batch]), 1), None, quiet)
        # The gradient is -2; the first step with Nesterov's momentum of 0.9 is 1.9 times the gradient.
        torch.testing.assert_close(module.weight.detach(), torch.full((1, WIDTH), 0.38))

    def test_schedule_and_factor_reach_the_optimiser(self) -> None:
        class Two(Regression):
            def groups(self) -> list[dict[str, Any]]:
                first, *others = self.module.parameters()
                return [{"params": [first]}, {"params": others, "factor": 10.0, "weight_decay": 0.5}]

        made = engine(Two(), epochs=4, learning_rate=0.1)
        made.fit(batches(), None, quiet)
        # The last of 3 steps of the last of 4 epochs.
        expected = 0.05 * (1 + math.cos(math.pi * (3 + 2 / 3) / 4))
        assert [group["lr"] for group in made.optimiser.param_groups] == pytest.approx([expected, 10 * expected])
        assert [group["weight_decay"] for group in made.optimiser.param_groups] == [1e-4, 0.5]
        moments = made.learner.moments
        assert [(one.epoch, one.step) for one in moments[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
        assert moments[4].progress == pytest.approx((1 + 1 / 3) / 4)

    def test_frozen_parameters_stay(self) -> None:
        learner = Regression()
        learner.module[0].requires_grad_(False)
        before = learner.module[0].weight.clone()
        engine(learner).fit(batches(), None, quiet)
        assert torch.equal(learner.module[0].weight, before)

    def test_mixed_precision_keeps_weights_and_loss_in_full(self) -> None:
        learner = Regression()
        history = engine(learner, precision="bfloat16", epochs=20).fit(batches(), None, quiet)
        assert {one.dtype for one in learner.module.parameters()} == {torch.float32}
        assert history[-1]["loss"] < history[0]["loss"]

    def test_a_loss_that_is_not_finite_names_step_and_images(self, tmp_path: Path) -> None:
        path, made = tmp_path / "checkpoint.pt", engine()
        good = batches()

        def turns(epoch: int) -> Any:
            return good(epoch) if epoch < 2 else batches(spoiled=3)(epoch)

        with pytest.raises(
            TrainingError, match=r"epoch 3, step \d: .*saw error (nan|inf).*image 3.*here\.learning_rate"
        ):
            made.fit(turns, path, quiet)
        kept = load_checkpoint(path)
        assert kept is not None
        assert len(kept["history"]) == 2
        assert all(torch.isfinite(one).all() for one in kept["module"].values())


class TestSelection:
    def test_the_best_epoch_is_kept(self) -> None:
        values = iter([0.1, float("nan"), 0.7, 0.3, 0.7])
        seen: list[Tensor] = []
        learner = Regression()

        def validate() -> dict[str, float]:
            assert not learner.training
            seen.append(learner.module[0].weight.detach().clone())
            return {"px_ap": next(values)}

        made = engine(learner, validate=validate, select="px_ap")
        history = made.fit(batches(), None, quiet)
        assert [entry["px_ap"] for entry in history][2:] == [0.7, 0.3, 0.7]
        assert torch.equal(learner.module[0].weight, seen[2])

    def test_an_undefined_value_is_beaten_by_any(self) -> None:
        values = iter([float("nan"), 0.1, 0.0])
        made = engine(epochs=3, validate=lambda: {"v": next(values)}, select="v")
        made.fit(batches(), None, quiet)
        assert made.best is not None
        assert (made.best["epoch"], made.best["value"]) == (2, 0.1)

    def test_patience(self) -> None:
        values = iter([0.1, 0.4, 0.3, 0.4, 0.9])
        made = engine(patience=2, validate=lambda: {"v": next(values)}, select="v")
        assert len(made.fit(batches(), None, quiet)) == 4


class TestResume:
    @pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
    @pytest.mark.parametrize("after", [1, 3, 5])
    def test_weights_are_those_of_an_undisturbed_training(self, tmp_path: Path, optimiser: str, after: int) -> None:
        settings = {"optimiser": optimiser, "validate": lambda: {"v": 1.0}, "select": "v"}
        whole = engine(**settings)
        whole.fit(batches(), None, quiet)

        def killed(done: int, *_: object) -> None:
            if done == after:
                raise KilledError

        path = tmp_path / "checkpoint.pt"
        with pytest.raises(KilledError):
            engine(**settings).fit(batches(), path, killed)
        torch.rand(5)
        resumed, told = engine(Regression(seed=99), **settings), []
        history = resumed.fit(batches(), path, lambda *what: told.append(what[:2]))
        assert same(resumed, whole)
        assert history == whole.history
        assert told == [(epoch, 5) for epoch in range(after + 1, 6)]
        assert resumed.best is not None
        assert resumed.best["epoch"] == 1

    def test_another_seed_trains_otherwise(self) -> None:
        made = [engine(seed=seed, epochs=1) for seed in (0, 0, 1)]
        for one in made:
            one.fit(batches(), None, quiet)
        assert same(made[0], made[1])
        assert not same(made[0], made[2])

    def test_epochs_and_seeds_do_not_share_a_seed(self) -> None:
        assert len({step_seed(seed, epoch) for seed in range(20) for epoch in range(100)}) == 2000

    def test_refuses_a_damaged_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint.pt").write_bytes(b"half")
        with pytest.raises(CheckpointError, match="delete it to start anew"):
            engine().fit(batches(), tmp_path / "checkpoint.pt", quiet)


class TestRates:
    def test_schedules(self) -> None:
        cosine = Optimisation()
        assert [rate_factor(cosine, part) for part in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0])
        assert rate_factor(Optimisation(schedule="constant"), 0.9) == 1
        step = Optimisation(schedule="step", epochs=50, step_epochs=15)
        assert [rate_factor(step, epoch / 50) for epoch in (0, 14.9, 15, 30, 45)] == pytest.approx(
            [1, 1, 0.1, 0.01, 0.001]
        )
        assert rate_factor(Optimisation(schedule="poly"), 0.75) == pytest.approx(0.25**0.9)

    def test_warm_up(self) -> None:
        settings = Optimisation(epochs=10, warmup_epochs=2, schedule="cosine")
        assert [rate_factor(settings, part) for part in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
