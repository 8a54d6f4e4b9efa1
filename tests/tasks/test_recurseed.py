from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, multilabel_soft_margin_loss

import tasks.recurseed as module
from configs.recurseed import Mix, RecurSeed, RecurSeedOptimisation, Spread
from methods.losses.recurseed_losses import activations, reconstruction_loss
from methods.networks import build_classifier
from methods.networks.joint_network import JointNetwork
from methods.training import edge_predict_targets, recurseed_target, target_labels
from tasks.engine import Batch, Batches, Engine, Moment, Terms, TrainingError
from tasks.recurseed import RecurSeedLearner, levels

CPU = torch.device("cpu")
SIDE, CLASSES = 64, 3
PARTS = ["classification", "segmentation", "reconstruction"]
MIXED = [f"mix_{name}" for name in PARTS]


def learner(**options: Any) -> RecurSeedLearner:
    torch.manual_seed(1)
    network = JointNetwork(build_classifier("small", CLASSES), width=16, low_width=16)
    settings = {"start": 1, "mix": Mix(start=2), **options}
    return RecurSeedLearner(network, RecurSeed(model="recurseed", **settings))


def batch(seed: int = 0, count: int = 4) -> dict[str, Tensor]:
    """Blocks of a colour of their own for every class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(40, (count, 3, SIDE, SIDE), generator=generator)
    targets = (torch.eye(CLASSES, dtype=torch.uint8)[torch.arange(count) % CLASSES]).clone()
    targets[-1, 0] = 1
    for row, known in enumerate(targets):
        for name in known.nonzero()[:, 0].tolist():
            pixels[row, name, 16:48, 16 * name : 16 * name + 24] += 200
    return {"images": pixels / 255 - 0.5, "pixels": pixels.to(torch.uint8), "targets": targets}


def at(epoch: int, total: int = 0) -> Moment:
    return Moment(epoch, 0, total, 0.0)


def batches(steps: int = 2) -> Batches:
    def make(epoch: int) -> Any:
        return (Batch([0, 1, 2, 3], batch(seed=10 * epoch + step)) for step in range(steps)), steps

    return make


def quiet(*_: object) -> None:
    pass


def never(*_: object, **__: object) -> Tensor:
    raise AssertionError("computed before it counts")


class TestRecurSeedLearner:
    @pytest.mark.parametrize(
        ("epoch", "mix", "names"),
        [
            (0, Mix(start=2), PARTS[:1]),
            (1, Mix(start=2), PARTS),
            (2, Mix(start=2), PARTS + MIXED),
            (9, None, PARTS),
        ],
    )
    def test_terms_of_an_epoch(self, epoch: int, mix: Mix | None, names: list[str]) -> None:
        terms = learner(mix=mix)(batch(), at(epoch))
        assert list(terms) == names
        assert all(one.shape == () and one.isfinite() for one in terms.values())

    def test_defaults_are_the_published_epochs(self) -> None:
        made = learner(**RecurSeed(model="recurseed").model_dump(include={"start"}), mix=Mix())
        found = [len(made(batch(), at(epoch))) for epoch in (4, 5, 14, 15)]
        assert found == [1, 3, 3, 6]

    def test_before_the_start_it_is_the_classification_loss_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, data = learner().eval(), batch()
        for name in ("recurseed_target", "target_labels", "edge_predict_targets", "mix"):
            monkeypatch.setattr(module, name, never)
        monkeypatch.setattr(made.network.segmenter, "decode", never)
        (loss,) = made(data, at(0)).values()
        monkeypatch.undo()
        assert loss == multilabel_soft_margin_loss(made.network(data["images"]).class_logits, data["targets"].float())

    @pytest.mark.parametrize(("side", "grid"), [(8, (8, 8)), (20, (20, 20)), (64, (64, 64))])
    def test_terms_are_those_of_the_methods(self, side: int, grid: tuple[int, int]) -> None:
        made, data = learner(pamr_side=side).eval(), batch()
        terms = made(data, at(1))
        found, classes = made.network(data["images"]), data["targets"]
        maps = interpolate(found.class_maps, found.features[2].shape[-2:], mode="bilinear")
        assert maps.shape[2:] == (8, 8)
        target = recurseed_target(maps, found.features, data["pixels"] / 255, classes, grid=grid)
        labels = target_labels(target, (SIDE, SIDE)).long()
        assert (labels != 255).any()
        cross = torch.nn.functional.cross_entropy(found.logits, labels, ignore_index=255)
        torch.testing.assert_close(terms["segmentation"], cross)
        torch.testing.assert_close(
            terms["reconstruction"],
            reconstruction_loss(activations(maps, classes), adaptive_avg_pool2d(target, (8, 8))),
            rtol=1e-4,
            atol=1e-6,
        )
        assert terms["classification"] == made(data, at(0))["classification"]

    def test_weights_multiply_their_terms(self) -> None:
        weights = {"classes": 2.0, "segmentation": 3.0, "reconstruction": 0.0}
        plain, weighted = (learner(**one).eval()(batch(), at(2)) for one in ({}, weights))
        for name, weight in zip(PARTS, weights.values(), strict=True):
            for key in (name, f"mix_{name}"):
                torch.testing.assert_close(weighted[key], weight * plain[key])

    def test_the_target_carries_no_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, data, kept = learner().eval(), batch(), []

        def keep(*given: Any, **options: Any) -> Tensor:
            assert not given[0].requires_grad
            assert not any(one.requires_grad for one in given[1])
            kept.append(recurseed_target(*given, **options))
            return kept[-1]

        def still(*_: Any, **__: Any) -> Tensor:
            return kept[0].clone()

        gradients = []
        for one in (keep, still):
            monkeypatch.setattr(module, "recurseed_target", one)
            made.zero_grad()
            made(data, at(1))["reconstruction"].backward()
            weight = made.network.classifier.weight.grad
            assert weight is not None
            gradients.append(weight.clone())
        assert not kept[0].requires_grad
        assert torch.equal(*gradients)
        assert gradients[0].any()

    def test_ablations_leave_steps_out(self) -> None:
        data = batch()
        found = [
            learner(scg=scg, pamr=pamr).eval()(data, at(1))["reconstruction"].item()
            for scg in (True, False)
            for pamr in (True, False)
        ]
        assert len(set(found)) == 4
        assert found[3] == 0

    def test_constants_and_layers_of_self_correlation_count(self) -> None:
        data = batch()
        options = [{}, {"layers": ["S3"]}, {"variant": "spa_cub"}, {"foreground": 0.9}]
        found = [learner(scg=Spread(**one)).eval()(data, at(1))["reconstruction"].item() for one in options]
        assert len(set(found)) == 4

    def test_every_stage_is_correlated_unless_told(self) -> None:
        assert learner().levels == [0, 1, 2, 3, 4]
        assert learner(scg=Spread(layers=["S3", "S4"])).levels == [2, 3]

    def test_refuses_a_stage_that_is_not_there(self) -> None:
        network = JointNetwork(build_classifier("small", CLASSES), layers=["S3", "S4", "S5"], width=16, low_width=16)
        with pytest.raises(ValueError, match=r"scg\.layers: expected some of S3, S4, S5, saw 'S1'"):
            levels(network, RecurSeed(model="recurseed", scg=Spread(layers=["S1"])))

    @pytest.mark.parametrize("edges", ["mask", "image"])
    def test_mixed_labels_know_no_absent_class(self, edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        made, data, seen = learner(mix=Mix(start=2, edges=edges), foreground=0.2), batch(), []
        original = made._terms

        def watch(found: Any, target: Tensor, labels: Tensor, classes: Tensor) -> Any:
            seen.append((target, labels, classes))
            return original(found, target, labels, classes)

        monkeypatch.setattr(made, "_terms", watch)
        made(data, at(2))
        assert len(seen) == 2
        assert all(((labels != 0) & (labels != 255)).any() for _, labels, _ in seen)
        anywhere = set((data["targets"].amax(0).nonzero()[:, 0] + 1).tolist())
        for target, labels, classes in seen:
            assert not target[classes == 0].any()
            for row, known in zip(labels, classes, strict=True):
                shown = set(row.unique().tolist()) - {0, 255}
                assert shown <= set((known.nonzero()[:, 0] + 1).tolist()) & anywhere

    def test_edges_are_those_of_the_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []

        def keep(*given: Any, **options: Any) -> Tensor:
            seen.append(options)
            return edge_predict_targets(*given, **options)

        monkeypatch.setattr(module, "edge_predict_targets", keep)
        options = {"pamr": False, "foreground": 0.7, "background": 0.2}
        learner(mix=Mix(start=2, edges="image"), **options)(batch(), at(2))
        assert seen == [{"source": "image", **options}]

    def test_partners_follow_the_step_alone(self) -> None:
        def mixed(total: int, chance: int) -> Tensor:
            made, data = learner(foreground=0.2).eval(), batch(count=8)
            torch.manual_seed(chance)
            before = torch.get_rng_state()
            terms: Terms = made(data, at(2, total))
            assert torch.equal(torch.get_rng_state(), before)
            return terms["mix_classification"]

        assert mixed(3, 0) == mixed(3, 1)
        assert len({mixed(step, 0).item() for step in range(4)}) > 1

    def test_gradients_reach_every_part(self) -> None:
        made = learner()
        made.train()
        sum(made(batch(), at(2)).values(), torch.zeros(())).backward()
        for name, parameter in made.trained.named_parameters():
            if not name.startswith("segmenter.encoder.model.head"):
                assert parameter.grad is not None, name

    def test_before_the_start_the_decoder_rests(self) -> None:
        made = learner()
        made.train()
        made(batch(), at(0))["classification"].backward()
        assert made.network.segmenter.head.weight.grad is None
        assert made.network.classifier.weight.grad is not None

    def test_groups(self) -> None:
        made = learner()
        groups = made.groups()
        assert [one["factor"] for one in groups] == [1, 2, 10, 20]
        assert [one["weight_decay"] for one in groups] == [1e-4, 0, 1e-4, 0]
        counted = [id(one) for group in groups for one in group["params"]]
        assert sorted(counted) == sorted(id(one) for one in made.trained.parameters() if one.requires_grad)
        encoder = {id(one) for one in made.network.segmenter.encoder.parameters()}
        old = {id(one) for group in groups[:2] for one in group["params"]}
        # The convolution of the classes began as the classifier's head.
        assert old == encoder | {id(made.network.classifier.weight)}
        made.network.inherited = False
        assert any(one is made.network.classifier.weight for one in made.groups()[2]["params"])

    def test_one_group_without(self) -> None:
        (only,) = learner(groups=False).groups()
        assert "factor" not in only

    def test_half_precision(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            terms = learner()(batch(), at(2))
        assert all(one.isfinite() and one.dtype == torch.float32 for one in terms.values())

    def test_channels_last(self) -> None:
        plain = learner().eval()
        last = RecurSeedLearner(learner().network, plain.settings, channels_last=True).eval()
        torch.testing.assert_close(last(batch(), at(1)), plain(batch(), at(1)), rtol=1e-3, atol=1e-4)

    def test_refuses_to_mix_a_single_image(self) -> None:
        with pytest.raises(ValueError, match="at least two images to mix, got 1"):
            learner().eval()(batch(count=1), at(2))

    def test_weights_that_are_not_finite_end_as_a_loss(self) -> None:
        made = learner()
        with torch.no_grad():
            made.network.segmenter.head.weight.fill_(float("nan"))
        terms = made(batch(), at(2))
        assert not torch.stack(list(terms.values())).sum().isfinite()


class TestTraining:
    def engine(self, **options: Any) -> Engine:
        optimise = RecurSeedOptimisation(epochs=3, batch_size=4, learning_rate=0.01, schedule="constant")
        made = learner(optimise=optimise, **options)
        return Engine(made, optimise, CPU, where="train", ids=["a", "b", "c", "d"])

    def test_the_history_has_the_terms_of_each_epoch(self) -> None:
        history = self.engine().fit(batches(), None, quiet)
        assert [set(row) - {"epoch", "loss"} for row in history] == [set(), set(PARTS), set(PARTS + MIXED)]

    def test_learns(self) -> None:
        engine = self.engine(start=0, mix=Mix(start=0))

        def same(_epoch: int) -> Any:
            return (Batch([0, 1, 2, 3], batch()) for _ in range(4)), 4

        first, *_, last = engine.fit(same, None, quiet)
        assert last["classification"] < first["classification"]
        assert last["segmentation"] < first["segmentation"]

    def test_names_the_images_of_a_loss_that_is_not_finite(self) -> None:
        engine = self.engine(start=0)
        with torch.no_grad():
            next(engine.learner.trained.parameters()).fill_(float("nan"))
        with pytest.raises(TrainingError, match="images a, b, c, d"):
            engine.fit(batches(), None, quiet)
