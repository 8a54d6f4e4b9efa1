from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.schema import Classifier
from configs.training import Puzzle, Training
from methods.losses import puzzle_losses
from methods.networks import ClassifierNetwork, ClassMapError, build_classifier, class_maps
from methods.training import alpha, tile
from storage.checkpoints import load_checkpoint
from tasks.classify import ClassifierLearner, fit_classifier
from tasks.engine import Batch, Batches, Engine, Moment
from tasks.images import ImageSource
from tasks.puzzle import PuzzleGridError, PuzzleLearner, recipe_groups

CPU = torch.device("cpu")
SIDE = 64
START = Moment(0, 0, 0, 0.0)


class KilledError(Exception):
    pass


def quiet(*_: object) -> None:
    pass


def network(backbone: str = "small") -> ClassifierNetwork:
    torch.manual_seed(1)
    return build_classifier(backbone, 2)


def learner(made: ClassifierNetwork | None = None, **settings: Any) -> PuzzleLearner:
    names = {"optimiser", "weight_decay", "groups", "compat"}
    training = {name: value for name, value in settings.items() if name in names}
    puzzle = Puzzle(**{name: value for name, value in settings.items() if name not in names})
    return PuzzleLearner(made or network(), Training(puzzle=puzzle, **training), SIDE)


def batch(count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    targets = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])[torch.arange(count) % 4]
    return {"images": torch.rand(count, 3, SIDE, SIDE, generator=made), "targets": targets}


def batches(steps: int = 2) -> Batches:
    def make(epoch: int) -> Any:
        found = (Batch([0, 1, 2, 3], batch(seed=10 * epoch + step)) for step in range(steps))
        return found, steps

    return make


def at(progress: float) -> Moment:
    return Moment(0, 0, 0, progress)


class TestPuzzleLearner:
    def test_smoke(self) -> None:
        terms = learner()(batch(), START)
        assert list(terms) == ["classification", "pieces", "reconstruction", "entropy"]
        assert all(one.shape == () and one.isfinite() for one in terms.values())

    @pytest.mark.parametrize(
        "options",
        [{}, {"level": "cam", "region": "selection"}, {"distance": "l2", "region": "none", "entropy": 0.3}],
    )
    def test_terms_are_those_of_the_losses(self, options: dict[str, Any]) -> None:
        made, data = learner(**options).eval(), batch()
        terms = made(data, at(0.25))
        maps, _ = class_maps(made.network, data["images"])
        pieces, _ = class_maps(made.network, tile(data["images"], 2))
        losses = {name: value for name, value in options.items() if name != "entropy"}
        expected = puzzle_losses(maps, pieces, data["targets"], **losses)
        total = expected.total(alpha=2.0, entropy=options.get("entropy", 0.0))
        torch.testing.assert_close(sum(terms.values()), total)
        torch.testing.assert_close(terms["reconstruction"], 2 * expected.re_loss)

    def test_before_alpha_rises_only_the_classes_count(self) -> None:
        terms = learner()(batch(), START)
        assert sum(terms.values()) == terms["classification"] + terms["pieces"]

    @pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.125, 1.0), (0.25, 2.0), (0.5, 4.0), (0.9, 4.0)])
    def test_alpha_follows_the_progress(self, progress: float, weight: float) -> None:
        made, data = learner().eval(), batch()
        found, full = (made(data, at(moment))["reconstruction"] for moment in (progress, 1.0))
        torch.testing.assert_close(found, full * weight / 4)
        assert weight == alpha(round(1000 * progress), 1000)

    def test_other_alpha(self) -> None:
        data = batch()
        sudden, none = (learner(alpha=one, rise=0.0).eval()(data, START)["reconstruction"] for one in (3.0, 0.0))
        torch.testing.assert_close(sudden, learner().eval()(data, at(1.0))["reconstruction"] * 3 / 4)
        assert none == 0

    def test_four_pieces_a_side(self) -> None:
        # Tiles of an image of 128 are 32, the smallest that the network's strides leave something of.
        made = PuzzleLearner(network(), Training(puzzle=Puzzle(pieces=4)), 128)
        terms = made({"images": torch.rand(2, 3, 128, 128), "targets": torch.tensor([[1, 0], [0, 1]])}, at(0.5))
        assert terms["reconstruction"] > 0

    def test_gradients_reach_the_network(self) -> None:
        made = learner()
        made.train()
        sum(made(batch(), at(0.5)).values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        for name, parameter in made.trained.named_parameters():
            if name != "head.bias":
                assert parameter.grad is not None, name
                assert parameter.grad.any(), name

    def test_the_reconstruction_alone_teaches_the_first_layer(self) -> None:
        made = learner()
        made.train()
        made(batch(), at(0.5))["reconstruction"].backward()
        gradient = made.trained.get_submodule("stages.0.0").weight.grad
        assert isinstance(gradient, Tensor)
        assert gradient.any()

    def test_the_head_has_no_bias_and_gets_none(self) -> None:
        made, data = network(), batch()
        one = Engine(learner(made), Training(epochs=1), CPU, where="here", ids=list("abcd"))
        one.fit(batches(), None, quiet)
        bias = made.model.get_submodule("head").bias
        assert isinstance(bias, Tensor)
        assert not bias.any()
        made.model.eval()
        maps, logits = class_maps(made, data["images"])
        torch.testing.assert_close(maps.mean(dim=(2, 3)), logits)

    def test_building_changes_nothing_else(self) -> None:
        made, plain = network(), network()
        made.model.train()
        learner(made)
        assert all(one.training for one in made.model.modules())
        for name, value in plain.model.state_dict().items():
            assert torch.equal(value, made.model.state_dict()[name]) or name == "head.bias"

    def test_refuses_grids_that_do_not_fit(self) -> None:
        message = r"got 3 cells a side and 7 at input_size 224: set classifier.input_size: 192 or 256"
        with pytest.raises(PuzzleGridError, match=message):
            PuzzleLearner(network(), Training(puzzle=Puzzle()), 224)
        for side in (192, 256):
            PuzzleLearner(network(), Training(puzzle=Puzzle()), side)

    def test_refuses_other_networks(self) -> None:
        with pytest.raises(ClassMapError, match="vgg16 computes more in between"):
            PuzzleLearner(build_classifier("vgg16", 2, head="native"), Training(puzzle=Puzzle()), SIDE)


class TestEngine:
    def engine(self, seed: int = 1, **settings: Any) -> Engine:
        torch.manual_seed(seed)
        made = build_classifier("small", 2)
        training = Training(epochs=4, puzzle=Puzzle(), **settings)
        return Engine(PuzzleLearner(made, training, SIDE), training, CPU, where="here", ids=list("abcd"))

    def test_history_has_every_term(self) -> None:
        history = self.engine().fit(batches(), None, quiet)
        names = {"classification", "pieces", "reconstruction", "entropy"}
        for number, entry in enumerate(history):
            assert entry.keys() == {"epoch", "loss", *names}
            assert entry["loss"] == pytest.approx(sum(entry[name] for name in names))
            assert entry["epoch"] == number + 1
        assert all(entry["reconstruction"] > 0 for entry in history)

    @pytest.mark.parametrize("groups", [False, True])
    def test_a_resumed_training_ends_with_the_same_weights(self, groups: bool, tmp_path: Path) -> None:
        settings = {"groups": groups, "optimiser": "sgd", "learning_rate": 0.01}
        whole = self.engine(**settings)
        whole.fit(batches(), None, quiet)

        def die(done: int, *_: object) -> None:
            if done == 2:
                raise KilledError

        with pytest.raises(KilledError):
            self.engine(**settings).fit(batches(), tmp_path / "checkpoint.pt", die)
        kept = load_checkpoint(tmp_path / "checkpoint.pt")
        assert kept is not None
        assert len(kept["history"]) == 2
        again = self.engine(**settings)
        again.fit(batches(), tmp_path / "checkpoint.pt", quiet)
        assert again.history == whole.history
        states = whole.learner.trained.state_dict(), again.learner.trained.state_dict()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    def test_learning_rates_of_groups(self) -> None:
        made = self.engine(groups=True, optimiser="sgd", learning_rate=0.01, schedule="poly", weight_decay=1e-3)
        made.fit(batches(), None, quiet)
        # The second of 2 steps of the last of 4 epochs; what was trained before has batch norms' biases only.
        rate = 0.01 * (1 - 7 / 8) ** 0.9
        groups = made.optimiser.param_groups
        assert [one["lr"] for one in groups] == pytest.approx([rate, 2 * rate, 10 * rate, 20 * rate])
        assert [one["weight_decay"] for one in groups] == [1e-3, 0.0, 1e-3, 0.0]
        assert [len(one["params"]) for one in groups] == [10, 5, 1, 0]
        assert {one["momentum"] for one in groups} == {0.9}

    def test_the_accident(self) -> None:
        made = self.engine(groups=True, compat=True, optimiser="sgd", learning_rate=0.01, weight_decay=1e-3)
        assert {(one["momentum"], one["nesterov"]) for one in made.optimiser.param_groups} == {(1e-3, False)}
        made.fit(batches(), None, quiet)


class TestRecipeGroups:
    def test_off_it_is_one_group(self) -> None:
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        module[0].requires_grad_(False)
        (group,) = recipe_groups(module, ["1"], Training())
        assert group == {"params": [module[1].weight, module[1].bias]}

    def test_a_plain_training_takes_them_too(self) -> None:
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        settings = Training(groups=True, optimiser="sgd", learning_rate=0.1)
        made = ClassifierLearner(module, multi_label=True, balance=None, settings=settings, new=["1"])
        groups = Engine(made, settings, CPU, where="here", ids=[]).optimiser.param_groups
        assert [one["factor"] for one in groups] == [1, 2, 10, 20]
        assert [len(one["params"]) for one in groups] == [1, 1, 1, 1]

    def test_the_accident_alone(self) -> None:
        settings = Training(compat=True, optimiser="sgd", weight_decay=2e-4)
        (group,) = recipe_groups(nn.Linear(3, 2), [""], settings)
        assert (group["momentum"], group["nesterov"]) == (2e-4, False)


class TestFitClassifier:
    @pytest.fixture
    def pieces(self, pictures: Any) -> Any:
        source = ImageSource(pictures.root, pictures.index, max_pixels=1000)
        yield pictures.index, list(range(7)), source
        source.close()

    def config(self, **settings: Any) -> Classifier:
        train = Training(epochs=2, batch_size=4, puzzle=Puzzle(), **settings)
        return Classifier(input_size=SIDE, train=train)

    def test_trains_all_but_the_bias(self, pieces: Any, tmp_path: Path) -> None:
        made, path = network(), tmp_path / "checkpoint.pt"
        before = {name: value.clone() for name, value in made.model.named_parameters()}
        seen: list[bool] = []
        told: Callable[..., None] = lambda *_: seen.append(path.exists())  # noqa: E731
        facts = fit_classifier(made, self.config(groups=True), *pieces, CPU, path, None, told)
        same = {name for name, value in made.model.named_parameters() if torch.equal(value, before[name])}
        assert same == set()
        assert not made.model.get_submodule("head").bias.any()  # type: ignore[operator, union-attr]
        assert (facts["multi_label"], facts["images"], seen) == (True, 7, [True, True])
        assert "reconstruction" in facts["history"][-1]

    def test_refuses_before_any_work(self, pieces: Any, tmp_path: Path) -> None:
        config = Classifier(input_size=96, train=Training(puzzle=Puzzle()))
        with pytest.raises(PuzzleGridError, match="input_size: 64 or 128"):
            fit_classifier(network(), config, *pieces, CPU, tmp_path / "checkpoint.pt", None, quiet)
        assert not (tmp_path / "checkpoint.pt").exists()
