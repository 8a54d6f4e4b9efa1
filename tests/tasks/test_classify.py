import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.schema import Classifier, Training
from methods.networks import build_classifier
from storage.checkpoints import CheckpointError
from storage.index import ImageIndex
from tasks.classify import (
    Batch,
    Trainer,
    centre_head,
    feature_batches,
    fit_classifier,
    is_multi_label,
    start_from_zero,
    step_seed,
    train,
)
from tasks.images import ImageSource

CPU = torch.device("cpu")
Make = Callable[..., ImageIndex]


class KilledError(Exception):
    pass


def quiet(*_: object) -> None:
    pass


def features() -> tuple[Tensor, Tensor]:
    torch.manual_seed(7)
    return torch.rand(11, 6), torch.nn.functional.one_hot(torch.arange(11) % 3, 3).bool()


def trainer(settings: Training, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3))
    return Trainer(module, settings, multi_label=False, balance=torch.tensor([1.0, 2.0, 0.5]))


def same_state(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


class TestIsMultiLabel:
    @pytest.mark.parametrize(
        ("labels", "classes", "auto"),
        [
            ([["cat"], ["dog"], ["cat"]], ("cat", "dog"), False),
            ([["cat"], []], ("cat", "dog"), True),
            ([["cat", "dog"], ["dog"]], ("cat", "dog"), True),
            ([["cat"], ["cat"]], ("cat",), True),
        ],
    )
    def test_auto(self, index_of_labels: Make, labels: list, classes: tuple[str, ...], auto: bool) -> None:
        index = index_of_labels(labels, classes)
        rows = list(range(len(labels)))
        assert is_multi_label("auto", index, rows) is auto
        assert is_multi_label("soft_margin", index, rows) is True

    def test_only_the_rows_asked_for_count(self, index_of_labels: Make) -> None:
        index = index_of_labels([["cat"], ["dog"], ["cat", "dog"]], ("cat", "dog"))
        assert is_multi_label("cross_entropy", index, [0, 1]) is False
        assert is_multi_label("auto", index, [0, 1, 2]) is True

    def test_refuses_cross_entropy(self, index_of_labels: Make) -> None:
        index = index_of_labels([["cat"], [], ["cat", "dog"]], ("cat", "dog"))
        with pytest.raises(ValueError, match=r"saw 2 classes and images with \[0, 1, 2\] labels; use auto"):
            is_multi_label("cross_entropy", index, [0, 1, 2])
        with pytest.raises(ValueError, match=r"saw 1 classes and images with \[1\] labels"):
            is_multi_label("cross_entropy", index_of_labels([["cat"]], ("cat",)), [0])


class TestTrainer:
    def test_rates(self) -> None:
        cosine = trainer(Training(learning_rate=0.4))
        assert [cosine.rate(part) for part in (0, 0.5, 1)] == pytest.approx([0.4, 0.2, 0.0], abs=1e-7)
        assert cosine.rate(1 / 3) == pytest.approx(0.3)
        assert trainer(Training(learning_rate=0.4, schedule="constant")).rate(0.9) == 0.4

    def test_schedule_reaches_the_optimiser(self) -> None:
        made = trainer(Training(epochs=4, learning_rate=0.1, batch_size=4))
        data, targets = features()
        made.epoch(2, *feature_batches(data, targets, made.settings)(2))
        # The last of 3 steps of the third of 4 epochs.
        expected = 0.05 * (1 + math.cos(math.pi * (2 + 2 / 3) / 4))
        assert made.optimiser.param_groups[0]["lr"] == pytest.approx(expected)

    def test_one_plain_step_by_hand(self) -> None:
        module = nn.Linear(1, 2, bias=False)
        nn.init.zeros_(module.weight)
        settings = Training(optimiser="sgd", learning_rate=0.1, weight_decay=0.0, schedule="constant", epochs=1)
        made = Trainer(module, settings, multi_label=False, balance=None)
        loss = made.epoch(0, iter([Batch(torch.ones(1, 1), torch.tensor([[1, 0]]))]), 1)
        assert loss == pytest.approx(math.log(2))
        # Gradient (p - y) = (-0.5, 0.5); the first step with Nesterov momentum 0.9 is 1.9 times the gradient.
        torch.testing.assert_close(module.weight.detach(), torch.tensor([[0.095], [-0.095]]))
        assert made.history == [{"epoch": 1, "loss": pytest.approx(math.log(2))}]

    def test_frozen_parameters_stay(self) -> None:
        module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
        module[0].requires_grad_(False)
        before = module[0].weight.clone()
        made = Trainer(module, Training(epochs=1, batch_size=4), multi_label=False, balance=None)
        train(made, feature_batches(*features(), made.settings), None, quiet)
        assert torch.equal(module[0].weight, before)

    def test_learns(self) -> None:
        made = trainer(Training(epochs=30, learning_rate=0.02, batch_size=4))
        history = train(made, feature_batches(*features(), made.settings), None, quiet)
        assert history[-1]["loss"] < 0.6 * history[0]["loss"]

    def test_refuses_a_loss_that_is_not_finite(self) -> None:
        made = trainer(Training(epochs=3, batch_size=4))
        data, targets = features()
        data[5] = math.inf
        with pytest.raises(FloatingPointError, match=r"epoch 1: the loss is nan; lower classifier\.train\.learning"):
            train(made, feature_batches(data, targets, made.settings), None, quiet)


class TestResume:
    @pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
    @pytest.mark.parametrize("after", [1, 3, 5])
    def test_weights_are_those_of_an_undisturbed_training(self, tmp_path: Path, optimiser: str, after: int) -> None:
        settings = Training(epochs=5, batch_size=4, optimiser=optimiser, learning_rate=0.05)
        data, targets = features()
        whole = trainer(settings)
        train(whole, feature_batches(data, targets, settings), None, quiet)

        def killed(done: int, *_: object) -> None:
            if done == after:
                raise KilledError

        path = tmp_path / "checkpoint.pt"
        with pytest.raises(KilledError):
            train(trainer(settings), feature_batches(data, targets, settings), path, killed)
        torch.rand(5)
        resumed, told = trainer(settings, seed=99), []
        history = train(resumed, feature_batches(data, targets, settings), path, lambda *what: told.append(what[:2]))
        assert same_state(resumed.module, whole.module)
        assert history == whole.history
        assert told == [(epoch, 5) for epoch in range(after + 1, 6)]

    def test_another_seed_trains_otherwise(self) -> None:
        made = [trainer(Training(epochs=1, batch_size=4, seed=seed)) for seed in (0, 0, 1)]
        for one in made:
            train(one, feature_batches(*features(), one.settings), None, quiet)
        assert same_state(made[0].module, made[1].module)
        assert not same_state(made[0].module, made[2].module)

    def test_epochs_and_seeds_do_not_share_a_seed(self) -> None:
        seeds = {step_seed(seed, epoch) for seed in range(20) for epoch in range(100)}
        assert len(seeds) == 2000

    def test_refuses_a_damaged_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint.pt").write_bytes(b"half")
        made = trainer(Training(epochs=1))
        with pytest.raises(CheckpointError, match="delete it to start anew"):
            train(made, feature_batches(*features(), made.settings), tmp_path / "checkpoint.pt", quiet)


class TestFitClassifier:
    @pytest.fixture
    def pieces(self, pictures: Any) -> Any:
        source = ImageSource(pictures.root, pictures.index, max_pixels=1000)
        yield build_classifier("small", 2), pictures.index, list(range(7)), source
        source.close()

    def test_features_train_the_head_alone(self, pieces: Any, tmp_path: Path) -> None:
        network, path = pieces[0], tmp_path / "checkpoint.pt"
        before = {name: value.clone() for name, value in network.model.state_dict().items()}
        config, made = Classifier(input_size=32, train=Training(epochs=2)), torch.rand(7, 160)
        facts = fit_classifier(network, config, *pieces[1:], CPU, path, made, quiet)
        after = network.model.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed == {"head.weight", "head.bias"}
        assert (facts["multi_label"], facts["images"], len(facts["history"])) == (False, 7, 2)
        assert not path.exists()

    def test_images_train_all_of_it(self, pieces: Any, tmp_path: Path) -> None:
        network, path, seen = pieces[0], tmp_path / "checkpoint.pt", []
        before = {name: value.clone() for name, value in network.model.named_parameters()}
        config = Classifier(input_size=32, loss="soft_margin", train=Training(epochs=1, batch_size=4))
        facts = fit_classifier(network, config, *pieces[1:], CPU, path, None, lambda *_: seen.append(path.exists()))
        assert all(not torch.equal(value, before[name]) for name, value in network.model.named_parameters())
        assert (facts["multi_label"], seen, path.exists()) == (True, [True], False)


class TestHead:
    def test_centring_changes_no_probability(self) -> None:
        torch.manual_seed(0)
        head, features = nn.Linear(5, 3), torch.randn(7, 5)
        before = torch.softmax(head(features), dim=1)
        centre_head(head)
        assert torch.allclose(torch.softmax(head(features), dim=1), before, atol=1e-6)
        assert head.weight.sum(dim=0).abs().max() < 1e-6

    def test_a_convolution_is_left_alone(self) -> None:
        head = nn.Conv2d(3, 2, 1)
        before = head.weight.clone()
        centre_head(head)
        assert torch.equal(head.weight, before)

    def test_zero_start(self) -> None:
        head = nn.Linear(5, 3)
        start_from_zero(head)
        assert not any(parameter.any() for parameter in head.parameters())
