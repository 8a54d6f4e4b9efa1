"""The learner of decoders: its terms, what reaches the network, and what a step draws."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.decoders import Decoder, DipsDecoder, FcamDecoder, SizeLoss
from configs.normalise import Normalise
from methods.networks import ClassifierNetwork, build_classifier
from tasks.decode import DecoderLearner, barrier, new_decoder, seed_of, trained_parts
from tasks.engine import Moment, Terms

SIDE = 32
WIDTHS = [8, 8, 4, 4, 4]
OFF: dict[str, Any] = {"crf": {"weight": 0}, "size": {"weight": 0}}
CHEAP = {"weight": 2e-9, "scale": 0.25}
"""A quarter of the side: the lattice is what takes time here."""
START = Moment(epoch=0, step=0, total=0, progress=0.0)


def moment(epoch: int, total: int) -> Moment:
    """A moment of some training."""
    return Moment(epoch=epoch, step=0, total=total, progress=0.5)


def fcam(**sections: Any) -> FcamDecoder:
    """A small F-CAM."""
    return FcamDecoder.model_validate({"model": "fcam", "proposal": "cam", "widths": WIDTHS, **sections})


def dips(**sections: Any) -> DipsDecoder:
    """A small DiPS."""
    return DipsDecoder.model_validate({"model": "dips", "encoder": "small", "widths": WIDTHS, **sections})


@pytest.fixture
def classifier() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 3)
    made.model.eval().requires_grad_(False)
    return made


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """A batch of three lessons: a bright square in each map, a box around it."""
    random = torch.Generator().manual_seed(2)
    maps = 0.2 * torch.rand(3, SIDE, SIDE, generator=random)
    maps[:, 4:20, 8:24] += 0.8
    return {
        "pixels": torch.randint(256, (3, 3, SIDE, SIDE), generator=random, dtype=torch.uint8),
        "maps": maps,
        "boxes": torch.tensor([[8, 4, 24, 20]] * 3),
        "labels": torch.tensor([0, 2, 1]),
    }


def learner(decoder: Decoder, classifier: ClassifierNetwork, *, multi_label: bool = False) -> DecoderLearner:
    """A learner in training mode, as the engine has it."""
    frozen = classifier.model if isinstance(decoder, DipsDecoder) else None
    network = new_decoder(decoder, classifier)
    made = DecoderLearner(network, decoder, Normalise(), frozen, multi_label=multi_label)
    made.train()
    return made


def gradients(terms: Terms, made: DecoderLearner) -> dict[str, Tensor]:
    """Gradients of the sum of terms by parameter."""
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    return {name: one.grad for name, one in made.trained.named_parameters() if one.grad is not None}


class TestTerms:
    def test_smoke(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        terms = learner(fcam(), classifier)(tensors, START)
        assert set(terms) == {"seeds", "crf", "size"}
        assert all(one.ndim == 0 and torch.isfinite(one) for one in terms.values())
        assert set(learner(dips(), classifier)(tensors, START)) == {"seeds", "crf", "classifier"}

    @pytest.mark.parametrize("off", ["crf", "size"])
    def test_each_term_of_fcam_can_be_switched_off(
        self, classifier: ClassifierNetwork, tensors: dict[str, Tensor], off: str
    ) -> None:
        every, fewer = (
            learner(fcam(**sections), classifier)(tensors, START)
            for sections in ({"crf": CHEAP}, {"crf": CHEAP, off: {"weight": 0}})
        )
        assert set(every) - set(fewer) == {off}
        assert all(torch.equal(every[name], one) for name, one in fewer.items())

    def test_each_term_of_dips_can_be_switched_off(
        self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]
    ) -> None:
        assert set(learner(dips(**OFF), classifier)(tensors, START)) == {"seeds", "classifier"}
        assert set(learner(dips(**OFF, classifier=0), classifier)(tensors, START)) == {"seeds"}
        sized = dips(crf={"weight": 0}, size={"weight": 0.1})
        assert set(learner(sized, classifier)(tensors, START)) == {"seeds", "size", "classifier"}

    @pytest.mark.parametrize("name", ["seeds", "crf", "size"])
    def test_weights_multiply(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor], name: str) -> None:
        once, twice = (
            learner(fcam(**{"crf": CHEAP, name: {"weight": weight}}), classifier)(tensors, START)[name]
            for weight in (0.5, 1.0)
        )
        torch.testing.assert_close(twice, 2 * once)

    def test_seeds_without_any_are_zero(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        # Constant maps: nothing is known, and the mean over nothing must not become NaN.
        tensors["maps"] = torch.zeros_like(tensors["maps"])
        made = learner(fcam(**OFF), classifier)
        terms = made(tensors, START)
        assert terms["seeds"] == 0
        assert all(not one.any() for one in gradients(terms, made).values())

    def test_a_box_that_the_crop_lost(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        tensors["boxes"] = torch.tensor([[SIDE, 0, SIDE, 3]] * 3)
        terms = learner(dips(**OFF), classifier)(tensors, START)
        assert all(torch.isfinite(one) for one in terms.values())

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_logits_that_are_not_finite_are_left_to_the_engine(
        self, classifier: ClassifierNetwork, tensors: dict[str, Tensor], value: float
    ) -> None:
        # It names the step and the images; a loss that refuses its input would not.
        made, logits = learner(dips(), classifier), torch.zeros(3, 2, SIDE, SIDE)
        logits[1, 0, 3, 3] = value
        terms = made.terms(logits, made.input(tensors), tensors, START)
        assert not torch.isfinite(torch.stack(list(terms.values())).sum())

    @pytest.mark.parametrize("make", [fcam, dips])
    def test_same_moment_same_terms(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor], make: Any) -> None:
        made = learner(make(**OFF), classifier)
        first, again, later = (made(tensors, moment(0, total))["seeds"] for total in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, later)


class TestClassifierResponse:
    """METHODS H.6: the loss looks at the image under the network's own map, so that it teaches the network."""

    def test_gradient_reaches_the_network(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        made = learner(dips(**OFF), classifier)
        terms = made(tensors, START)
        found = gradients({"classifier": terms["classifier"]}, made)
        assert set(found) == {name for name, one in made.trained.named_parameters() if one.requires_grad}
        for part in ("encoder", "decoder", "head"):
            assert max(float(one.abs().max()) for name, one in found.items() if name.startswith(part)) > 0, part

    def test_classifier_stays_as_it_is(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        before = {name: one.clone() for name, one in classifier.model.state_dict().items()}
        made = learner(dips(**OFF), classifier)
        gradients(made(tensors, START), made)
        assert not classifier.model.training
        assert all(one.grad is None for one in classifier.model.parameters())
        assert all(torch.equal(before[name], one) for name, one in classifier.model.state_dict().items())
        assert not set(classifier.model.parameters()) & set(made.parameters())

    def test_hand_computed(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        made = learner(dips(**OFF, classifier=2), classifier)
        images, logits = made.input(tensors), torch.zeros(3, 2, SIDE, SIDE)
        logits[:, 1] = math.log(3)  # foreground 3/4 everywhere
        chances = classifier.model(0.75 * images).softmax(dim=1)[[0, 1, 2], tensors["labels"]]
        found = made.terms(logits, images, tensors, START)["classifier"]
        torch.testing.assert_close(found, -2 * chances.log().mean())

    def test_labels_that_do_not_exclude_each_other(
        self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]
    ) -> None:
        made = learner(dips(**OFF, classifier=1), classifier, multi_label=True)
        images, logits = made.input(tensors), torch.zeros(3, 2, SIDE, SIDE)
        chances = classifier.model(0.5 * images).sigmoid()[[0, 1, 2], tensors["labels"]]
        found = made.terms(logits, images, tensors, START)["classifier"]
        torch.testing.assert_close(found, -chances.log().mean())


class TestBarrier:
    """METHODS E.4: t begins at 1, grows by 1 % an epoch, and ends at 10."""

    @pytest.mark.parametrize(("epoch", "t"), [(0, 1.0), (1, 1.01), (50, 1.01**50), (231, 1.01**231), (232, 10.0)])
    def test_per_epoch(self, epoch: int, t: float) -> None:
        assert barrier(SizeLoss(), moment(epoch, 100 * epoch)) == pytest.approx(t, rel=1e-12)

    def test_published_values(self) -> None:
        assert barrier(SizeLoss(), moment(50, 0)) == pytest.approx(1.64, abs=0.005)
        assert barrier(SizeLoss(), moment(231, 0)) < 10

    def test_per_step(self) -> None:
        size = SizeLoss(every="step", start=2, growth=1.5, end=5)
        assert [barrier(size, moment(0, total)) for total in range(4)] == [2, 3, 4.5, 5]

    def test_reaches_the_loss(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        made = learner(fcam(crf={"weight": 0}, size={"growth": 2, "end": 100}), classifier)
        first, later = (made(tensors, moment(epoch, 7))["size"] for epoch in (0, 2))
        torch.testing.assert_close(later, first / 4)  # areas are far on the logarithmic branch


class TestSeedOf:
    def test_every_step_has_its_own(self) -> None:
        seeds = {seed_of(seed, moment(0, total)) for seed in range(3) for total in range(500)}
        assert len(seeds) == 1500
        assert min(seeds) >= 0

    def test_epochs_count_through(self) -> None:
        # What was drawn follows the steps in all, not the place in an epoch.
        assert seed_of(0, moment(1, 7)) == seed_of(0, moment(0, 7))

    def test_large_seeds_fit_a_generator(self) -> None:
        torch.Generator().manual_seed(seed_of(2**62, moment(0, 10**9)))


class TestNewDecoder:
    @pytest.mark.parametrize("make", [fcam, dips])
    def test_follows_its_seed(self, classifier: ClassifierNetwork, make: Any) -> None:
        torch.manual_seed(5)
        first = trained_parts(new_decoder(make(), classifier)).state_dict()
        torch.manual_seed(6)
        again = trained_parts(new_decoder(make(), classifier)).state_dict()
        other = trained_parts(new_decoder(make(optimise={"seed": 1}), classifier)).state_dict()
        assert all(torch.equal(first[name], one) for name, one in again.items())
        assert any(not torch.equal(first[name], one) for name, one in other.items())

    def test_fcam_learns_without_its_classifier(self, classifier: ClassifierNetwork) -> None:
        parts = trained_parts(new_decoder(fcam(), classifier))
        assert {name.split(".")[0] for name in parts.state_dict()} == {"decoder", "head"}

    def test_dips_begins_with_the_classifiers_features(self, classifier: ClassifierNetwork) -> None:
        network = new_decoder(dips(), classifier)
        assert not network.frozen
        known = {name: one for name, one in classifier.model.state_dict().items() if one.is_floating_point()}
        shared = [name for name in known if not name.startswith(classifier.head)]
        found = network.encoder.state_dict()
        same = [
            name for name in shared if any(key.endswith(name) and torch.equal(found[key], known[name]) for key in found)
        ]
        assert same == shared
        assert {name.split(".")[0] for name in trained_parts(network).state_dict()} == {"decoder", "encoder", "head"}

    def test_dips_trains_no_parameter_without_gradient(
        self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]
    ) -> None:
        # Processes that average gradients would wait for one that never comes.
        made = learner(dips(**OFF), classifier)
        wanted = {name for name, one in made.trained.named_parameters() if one.requires_grad}
        assert set(gradients(made(tensors, START), made)) == wanted

    def test_refuses_widths_of_another_number(self, classifier: ClassifierNetwork) -> None:
        with pytest.raises(ValueError, match="one width a feature"):
            new_decoder(fcam(widths=[8, 8]), classifier)
