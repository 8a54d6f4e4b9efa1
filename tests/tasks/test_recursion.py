"""Which round of a recursion comes next, and the share of pixels that ends it: without ground truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.recurseed import RecurSeed
from storage.index import IGNORE
from storage.labels import LabelStore
from storage.stages import StageError, StageFolder
from storage.workspace import Workspace
from tasks.context import Run
from tasks.evaluate import ChangeWork
from tasks.folders import labels_of, name_masks, name_predicted, name_round_change, name_segmenter
from tasks.recursion import changed_share, next_round
from tasks.state import State
from tests.tasks.stores import STAGED
from tests.tasks.test_fit_segmenter import UNET, config, make_state
from tests.tasks.test_segment import SHARD, write_images, write_masks

CAT, DOG = 1, 2
SIDE = 10
PIXELS = SIDE * SIDE
SPLITS = ["train", "train", "val", "train"]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """A run without ground truth: three training images and one other."""
    images = [np.full((SIDE, SIDE, 3), 50 * row, np.uint8) for row in range(4)]
    index = write_images(tmp_path, images, [["cat"], ["dog"], ["cat"], ["dog"]], SPLITS)
    made = make_state(tmp_path, index, recurse={"rounds": 3, "stop": 0.1, "train": UNET})
    assert made.truth is None
    yield made
    made.source().close()


def full(value: int) -> np.ndarray[Any, Any]:
    return np.full((SIDE, SIDE), value, np.uint8)


def with_pixels(count: int, value: int, of: int = 0) -> np.ndarray[Any, Any]:
    """A mask of one label, with another in its first pixels."""
    mask = full(of)
    mask.ravel()[:count] = value
    return mask


def masks(state: State, name: str, found: dict[int, np.ndarray[Any, Any]]) -> LabelStore:
    return write_masks(state.run.root / name, state.index, found)


def count(state: State, title: str, before: LabelStore, after: LabelStore) -> StageFolder:
    """The finished counts of a round."""
    folder = StageFolder(state.run.root / f"change-{title.replace(' ', '-')}")
    shards = len(state.index.shards(SHARD))
    folder.begin({"shard_images": SHARD}, shards=shards, classes=state.index.classes, index_stage=STAGED)
    work = ChangeWork(state.run.config, before, after, folder)
    for shard in work.missing():
        work(shard)
    state.round_changes[title] = folder
    return folder


def titles(state: State, *shares: int) -> list[str]:
    """Rounds that come, when each changes so many pixels of a hundred of every image."""
    recurse, found = state.run.config.recurse, []
    assert recurse is not None
    before = masks(state, "mask-0", {row: full(0) for row in range(4)})
    while (training := next_round(state)) is not None:
        found.append(training.title)
        number = len(found)
        after = masks(state, f"mask-{number}", {row: with_pixels(shares[number - 1], CAT) for row in range(4)})
        count(state, training.title, before, after)
    return found


class TestNextRound:
    def test_ends_with_the_last_round(self, state: State) -> None:
        assert titles(state, 90, 90, 90) == [f"unet-first round {number}" for number in (1, 2, 3)]

    @pytest.mark.parametrize(("shares", "rounds"), [((10,), 1), ((11, 5), 2), ((50, 50, 0), 3), ((0,), 1)])
    def test_ends_where_little_changes(self, state: State, shares: tuple[int, ...], rounds: int) -> None:
        assert len(titles(state, *shares)) == rounds

    def test_each_learns_from_the_one_before(self, state: State) -> None:
        first = next_round(state)
        assert first is not None
        assert first.labels is None
        masks_ = masks(state, "mask-0", {0: full(0)}), masks(state, "mask-1", {0: full(CAT)})
        count(state, first.title, *masks_)
        second = next_round(state)
        assert second is not None
        assert (second.labels, second.title) == ("unet-first round 1", "unet-first round 2")
        assert second.settings == first.settings

    def test_without_recursion_there_is_none(self, state: State) -> None:
        plain = State(Run(config(state.run.root, UNET), Workspace(state.run.root / "workspace")))
        assert next_round(plain) is None

    def test_stop_at_zero_ends_where_nothing_changes(self, state: State) -> None:
        sections = {"recurse": {"rounds": 3, "stop": 0.0, "train": UNET}}
        exact = State(Run(config(state.run.root, **sections), state.run.workspace))
        exact.index = state.index
        assert len(titles(exact, 1, 0)) == 2

    def test_half_counted_changes_decide_nothing(self, state: State) -> None:
        recurse = state.run.config.recurse
        assert recurse is not None
        store = masks(state, "mask-0", {row: full(0) for row in range(4)})
        folder = count(state, recurse.title(1), store, store)
        folder.log.withdraw("00001")
        with pytest.raises(StageError, match="expected 2 committed shards"):
            next_round(state)


class TestChangedShare:
    def share(self, state: State, before: dict[int, Any], after: dict[int, Any]) -> float:
        recurse = state.run.config.recurse
        assert recurse is not None
        training = recurse.round(1)
        count(state, training.title, masks(state, "mask-0", before), masks(state, "mask-1", after))
        return changed_share(state, training)

    def test_of_the_training_images_alone(self, state: State) -> None:
        before = {row: full(0) for row in range(4)}
        after = {0: with_pixels(6, CAT), 1: full(0), 2: full(DOG), 3: with_pixels(9, DOG)}
        assert self.share(state, before, after) == pytest.approx(15 / (3 * PIXELS))

    @pytest.mark.parametrize("pixels", [0, 7, 30, 100])
    def test_from_one_class_to_another(self, state: State, pixels: int) -> None:
        # Exact, so that a share of 0.3 is not above a bound of 0.3.
        assert self.share(state, {0: full(CAT)}, {0: with_pixels(pixels, DOG, CAT)}) == pixels / PIXELS

    def test_unknown_pixels_do_not_count(self, state: State) -> None:
        # Known in both: the last 60 pixels of a hundred, of which the first 10 changed.
        before, after = with_pixels(20, IGNORE, CAT), with_pixels(50, DOG, CAT)
        after.ravel()[:40] = IGNORE
        assert self.share(state, {0: before}, {0: after}) == pytest.approx(10 / 60)

    @pytest.mark.parametrize(("old", "new"), [(IGNORE, CAT), (CAT, IGNORE), (IGNORE, IGNORE)])
    def test_nothing_known_is_no_change(self, state: State, old: int, new: int) -> None:
        assert self.share(state, {0: full(old)}, {0: full(new)}) == 0
        assert next_round(state) is None


class TestNames:
    """Folders of networks and rounds: what they depend on, and what not."""

    @pytest.fixture
    def named(self, state: State) -> State:
        state.proposals = [(state.run.config.class_proposals[0], StageFolder(state.run.root / "propose-aaaaaaaaaaaa"))]
        name_masks(state)
        return state

    def finish(self, state: State, training: Any, content: str) -> None:
        """Name a network and its masks as though it were trained."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tasks.folders.classifier_weights", lambda _: "c" * 64)
            patch.setattr("tasks.folders.weights_digest", lambda _: content * 64)
            name_segmenter(state, training)
            name_predicted(state, training)

    def test_rounds_are_chained(self, named: State) -> None:
        recurse = named.run.config.recurse
        assert recurse is not None
        first, second = recurse.round(1), recurse.round(2)
        assert labels_of(named, first) == named.refined[0][1]
        self.finish(named, first, "a")
        assert labels_of(named, second) == named.predictions[0][1] != labels_of(named, first)
        self.finish(named, second, "b")
        assert named.segmenters[first.title] != named.segmenters[second.title]
        folder, basis = name_round_change(named, second)
        assert [basis["before"], basis["after"]] == [one.name for _, one in named.predictions]
        assert named.round_changes == {second.title: folder}
        assert name_round_change(named, first)[1]["before"] == named.refined[0][1].name

    def test_another_inference_is_another_label_set_of_the_same_network(self, named: State) -> None:
        plain, other = (
            RecurSeed.model_validate({"model": "recurseed", "name": name, "inference": {"gate": gate}})
            for name, gate in (("a", "labels"), ("b", "none"))
        )
        for one in (plain, other):
            self.finish(named, one, "a")
        assert named.segmenters["a"] == named.segmenters["b"]
        assert named.predictions[0][1] != named.predictions[1][1]
        assert labels_of(named, plain) is None

    def test_a_masks_name_is_not_a_part_of_the_network(self, named: State) -> None:
        recurse = named.run.config.recurse
        assert recurse is not None
        by_default = recurse.train
        by_name = by_default.model_copy(update={"labels": "grad_cam-S5", "name": "named"})
        for one in (by_default, by_name):
            self.finish(named, one, "a")
        assert named.segmenters["named"] == named.segmenters["unet-first"]

    def test_unknown_masks(self, named: State) -> None:
        recurse = named.run.config.recurse
        assert recurse is not None
        with pytest.raises(RuntimeError, match=r"expected masks of unet-first round 1; the refine step comes first"):
            labels_of(named, recurse.round(2))
