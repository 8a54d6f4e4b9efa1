"""The learner of affinity networks: its terms, the labels it learns from, and their batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.affinity import Affinity
from configs.normalise import Normalise
from methods.losses import affinity_loss, pair_affinities
from methods.networks import ClassifierNetwork, build_classifier
from methods.training import PairGridError, clean_labels, pair_labels
from storage.index import IGNORE, ImageIndex
from tasks.affinity import AffinityLearner, LabelTeacher, affinity_parts, check_affinity, label_batches, new_affinity
from tasks.engine import Batch, Engine, Moment
from tasks.images import ImageSource, to_input
from tasks.taught import MapTeacher
from tests.tasks.conftest import Pictures
from tests.tasks.stores import write_proposal

SIDE = 32
CAT, DOG = 1, 2
START = Moment(epoch=0, step=0, total=0, progress=0.0)


def affinity(**sections: Any) -> Affinity:
    """A small one: pairs less than 4 apart."""
    return Affinity.model_validate({"model": "affinity", "proposal": "cam", "radius": 4, **sections})


@pytest.fixture
def classifier() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 3)
    made.model.eval().requires_grad_(False)
    return made


def learner(classifier: ClassifierNetwork, **sections: Any) -> AffinityLearner:
    """A learner in training mode, as the engine has it."""
    made = affinity(**sections)
    found = AffinityLearner(new_affinity(made, classifier), made, Normalise())
    found.train()
    return found


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """Two images with a bright square, which is class 1, on grey; ignored around it."""
    random = torch.Generator().manual_seed(2)
    pixels = torch.randint(100, (2, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    pixels[:, :, 8:24, 8:24] += 150
    labels = torch.zeros(2, SIDE // 4, SIDE // 4, dtype=torch.uint8)
    labels[:, 2:6, 2:6] = 1
    labels[:, 1] = IGNORE
    return {"pixels": pixels, "labels": labels}


class TestTerms:
    def test_smoke(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        terms = learner(classifier)(tensors, START)
        assert set(terms) == {"background", "foreground", "different"}
        assert all(one.ndim == 0 and one > 0 for one in terms.values())

    def test_sum_is_the_published_loss(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        made = learner(classifier)
        edges = made.network(to_input(tensors["pixels"], Normalise(), torch.device("cpu"))).sigmoid()
        known = affinity_loss(pair_affinities(edges, 4), pair_labels(tensors["labels"], 4)).total()
        torch.testing.assert_close(sum(made(tensors, START).values()), known)

    def test_only_the_branches_learn(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        made = learner(classifier)
        before = {name: one.clone() for name, one in classifier.model.state_dict().items()}
        torch.stack(list(made(tensors, START).values())).sum().backward()  # type: ignore[no-untyped-call]
        assert all(one.grad is not None for one in made.trained.parameters())
        assert all(one.grad is None for one in classifier.model.parameters())
        assert all(torch.equal(before[name], one) for name, one in classifier.model.state_dict().items())
        assert not any("encoder" in name for name in made.trained.state_dict())

    def test_nothing_known_is_no_loss(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        tensors["labels"][:] = IGNORE
        made = learner(classifier)
        terms = made(tensors, START)
        assert all(one == 0 for one in terms.values())
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        assert not any(one.grad.any() for one in made.trained.parameters() if one.grad is not None)

    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_weights_that_are_not_finite_are_told(
        self, classifier: ClassifierNetwork, tensors: dict[str, Tensor], value: str
    ) -> None:
        made = learner(classifier)
        with torch.no_grad():
            made.network.edge.bias.fill_(float(value))  # type: ignore[union-attr]
        (logits,) = made(tensors, START).values()
        assert not torch.isfinite(logits)

    def test_layouts_agree(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        made = new_affinity(affinity(), classifier)
        plain = AffinityLearner(made, affinity(), Normalise())(tensors, START)
        other = AffinityLearner(made, affinity(), Normalise(), channels_last=True)(tensors, START)
        torch.testing.assert_close(plain, other)

    def test_learns_an_edge(self, classifier: ClassifierNetwork, tensors: dict[str, Tensor]) -> None:
        settings = affinity(optimise={"epochs": 30}).optimise
        made = learner(classifier)
        engine = Engine(made, settings, torch.device("cpu"), where="train: x", ids=["a", "b"])
        history = engine.fit(lambda _: (iter([Batch([0, 1], tensors)]), 1), None, lambda *_: None)
        assert history[-1]["loss"] < 0.6 * history[0]["loss"]
        assert set(history[0]) == {"epoch", "loss", "background", "foreground", "different"}


class TestNewAffinity:
    def test_follows_its_seed(self, classifier: ClassifierNetwork) -> None:
        states = [
            affinity_parts(new_affinity(affinity(optimise={"seed": seed}), classifier)).state_dict()
            for seed in (0, 0, 1)
        ]
        first, again, other = (one["edge.weight"] for one in states)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_layers(self, classifier: ClassifierNetwork) -> None:
        assert len(new_affinity(affinity(layers=["S2", "S4"]), classifier).branches) == 2
        assert len(new_affinity(affinity(), classifier).branches) == 5


class TestCheckAffinity:
    def test_accepts(self, classifier: ClassifierNetwork) -> None:
        check_affinity(affinity(), classifier, SIDE)

    def test_refuses_unknown_layers(self, classifier: ClassifierNetwork) -> None:
        with pytest.raises(ValueError, match="S9"):
            check_affinity(affinity(layers=["S9"]), classifier, SIDE)

    def test_refuses_images_without_room_for_a_pair(self, classifier: ClassifierNetwork) -> None:
        check_affinity(affinity(radius=10), classifier, 73)
        with pytest.raises(PairGridError, match="at least 10 x 19 for pairs within radius 10, got 18 x 18"):
            check_affinity(affinity(radius=10), classifier, 72)


def square(top: int, left: int, side: int = 3) -> Tensor:
    """A map of 12 x 12 with a block of ones that 0.2 surrounds, on zero."""
    made = torch.zeros(12, 12)
    made[max(0, top - 2) : top + side + 2, max(0, left - 2) : left + side + 2] = 0.2
    made[top : top + side, left : left + side] = 1
    return made


class TestLabelTeacher:
    @pytest.fixture
    def index(self, index_of_labels: Callable[..., ImageIndex]) -> ImageIndex:
        return index_of_labels([["cat"], ["cat", "dog"], [], ["dog"]], ("cat", "dog"))

    @pytest.fixture
    def maps(self) -> dict[tuple[int, int], Tensor]:
        both = {(1, CAT): square(1, 1), (1, DOG): 4 + 8 * square(7, 7)}
        return {(0, CAT): square(2, 3), **both, (3, DOG): square(5, 5)}

    def teacher(self, index: ImageIndex, maps: dict[tuple[int, int], Tensor], folder: Path, **options: Any) -> Any:
        proposal = write_proposal(folder / "p", index, maps, 2)
        return LabelTeacher(MapTeacher(proposal, range(len(index))), affinity(**options))

    def test_what_is_sure(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        teacher = self.teacher(index, maps, tmp_path, clean="none")
        assert teacher.rows == [0, 1, 3]
        pixels = torch.zeros(3, 12, 12, dtype=torch.uint8)
        for row, k in ((0, CAT), (3, DOG)):
            known, found = maps[row, k], teacher.labels(row, pixels)
            expected = torch.where(known > 0.4, 1, torch.where(known > 0.1, IGNORE, 0)).to(torch.uint8)
            assert found.dtype == torch.uint8
            assert torch.equal(found[0], expected)

    def test_all_classes_of_an_image_together(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        # The dog's map is 4 to 12: normalised it is worth as much as the cat's.
        found = self.teacher(index, maps, tmp_path, clean="none").labels(1, torch.zeros(3, 12, 12, dtype=torch.uint8))
        assert (found[0, 1:4, 1:4] == 1).all()
        assert (found[0, 7:10, 7:10] == 2).all()
        assert found[0, 5, 5] == IGNORE
        assert found[0, 0, 11] == 0
        assert sorted(set(found.flatten().tolist())) == [0, 1, 2, IGNORE]

    def test_a_map_without_a_place_leaves_no_background(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        maps[1, DOG] = torch.full((12, 12), 0.7)
        teacher = self.teacher(index, maps, tmp_path, clean="none")
        found = teacher.labels(1, torch.zeros(3, 12, 12, dtype=torch.uint8))
        assert sorted(set(found.flatten().tolist())) == [1, IGNORE]

    def test_both_maps_are_cleaned(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        pixels = torch.randint(256, (3, 12, 12), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
        found = self.teacher(index, maps, tmp_path).labels(0, pixels)[0]
        labels = torch.stack([maps[0, CAT] > bound for bound in (0.4, 0.1)])[None].to(torch.uint8)
        sure, perhaps = clean_labels(pixels[None] / 255, labels)[0]
        assert torch.equal(found == 1, sure == 1)
        assert torch.equal(found == 0, (sure == 0) & (perhaps == 0))

    def test_broken_maps_teach_nothing(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        maps[1, DOG] = torch.full((12, 12), torch.nan)
        assert self.teacher(index, maps, tmp_path).rows == [0, 3]


class TestLabelBatches:
    @pytest.fixture
    def lessons(self, pictures: Pictures, tmp_path: Path) -> tuple[ImageSource, LabelTeacher]:
        ids = pictures.index.class_ids
        maps = {(row, ids[row][0]): square(row, 8 - row, side=4) for row in range(7)}
        proposal = write_proposal(tmp_path / "p", pictures.index, maps, 3)
        teacher = LabelTeacher(MapTeacher(proposal, range(7)), affinity(clean="none"))
        return ImageSource(pictures.root, pictures.index, 10**6), teacher

    def epoch(self, lessons: tuple[ImageSource, LabelTeacher], epoch: int, **options: Any) -> list[Batch]:
        settings = {"batch_size": 3, "resize": 24, "size": 24, "flip": True, "seed": 0, **options}
        batches, steps = label_batches(*lessons, **settings)(epoch)
        found = list(batches)
        assert len(found) == steps
        return found

    def test_smoke(self, lessons: tuple[ImageSource, LabelTeacher]) -> None:
        found = self.epoch(lessons, 0, size=17)
        assert [len(one.rows) for one in found] == [3, 3, 1]
        for batch in found:
            count = len(batch.rows)
            pixels, labels = batch.tensors["pixels"], batch.tensors["labels"]
            assert (pixels.shape, pixels.dtype) == ((count, 3, 17, 17), torch.uint8)
            assert (labels.shape, labels.dtype) == ((count, 5, 5), torch.uint8)
        assert sorted(row for batch in found for row in batch.rows) == list(range(7))

    def test_an_epoch_is_drawn_anew_and_can_be_repeated(self, lessons: tuple[ImageSource, LabelTeacher]) -> None:
        first, again, later = (self.epoch(lessons, epoch, size=16) for epoch in (1, 1, 2))
        for one, other in zip(first, again, strict=True):
            assert one.rows == other.rows
            assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        assert [one.rows for one in first] != [one.rows for one in later]
        assert [one.rows for one in first] != [one.rows for one in self.epoch(lessons, 1, seed=1, size=16)]

    def test_places_of_the_grid_are_the_middles(self, lessons: tuple[ImageSource, LabelTeacher]) -> None:
        source, teacher = lessons
        for batch in self.epoch(lessons, 0, flip=False):
            for place, row in enumerate(batch.rows):
                pixels = source.square(row, 24)
                assert torch.equal(batch.tensors["pixels"][place], pixels)
                assert torch.equal(batch.tensors["labels"][place], teacher.labels(row, pixels)[0, 2::4, 2::4])

    def test_image_and_labels_are_cropped_at_one_place(self, lessons: tuple[ImageSource, LabelTeacher]) -> None:
        source, teacher = lessons
        for batch in self.epoch(lessons, 3, size=20):
            for place, row in enumerate(batch.rows):
                pixels = source.square(row, 24)
                both = torch.cat([pixels, teacher.labels(row, pixels)])
                found = batch.tensors["pixels"][place], batch.tensors["labels"][place]
                views = [
                    view
                    for whole in (both, both.flip(2))
                    for rows in whole.unfold(1, 20, 1).unfold(2, 20, 1).permute(1, 2, 0, 3, 4)
                    for view in rows
                ]
                assert any(torch.equal(v[:3], found[0]) and torch.equal(v[3, 2::4, 2::4], found[1]) for v in views)
