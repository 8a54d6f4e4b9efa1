"""Fitting networks that predict masks: what is learned from, resumed trainings, and what is refused before any work."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks.fit_segmenter as module
from configs import ConfigError, RunConfig
from configs.recurseed import RecurSeed
from configs.segmentation import Segmenter
from methods.networks import ClassifierNetwork, JointNetwork, build_classifier
from methods.networks.segmenters import SegmentationUNet
from storage.checkpoints import load_checkpoint
from storage.index import IGNORE, ImageIndex
from storage.labels import LabelStore
from storage.stages import StageFolder
from storage.workspace import Workspace
from tasks.context import Run
from tasks.engine import TrainingError
from tasks.fit_decoder import own_classifier
from tasks.fit_segmenter import check_segmenters, fit_segmenter, new_segmenter
from tasks.network import save_network
from tasks.processes import Trained
from tasks.segment import labelled_batches
from tasks.state import State
from tasks.taught import TeacherError
from tests.tasks.stores import STAGED
from tests.tasks.test_segment import CLASSES, write_images, write_masks

SIDE, IMAGES = 32, 6
SPLITS = ["train"] * 5 + ["val"]
UNET: dict[str, Any] = {"model": "unet", "width": 16, "optimise": {"epochs": 2, "batch_size": 2}}
RECURSEED: dict[str, Any] = {
    "model": "recurseed",
    "width": 16,
    "start": 0,
    "mix": {"start": 1},
    "optimise": {"epochs": 2, "batch_size": 3, "learning_rate": 0.01},
}


class KilledError(Exception):
    pass


def quiet(*_: object) -> None:
    pass


def config(root: Path, *train: dict[str, Any], **sections: Any) -> RunConfig:
    """A run on images of 32 pixels."""
    return RunConfig.model_validate(
        {
            "dataset": {"format": "table", "root": str(root), "table": "labels.csv", "labels": "labels"},
            "classifier": {"backbone": "small", "input_size": SIDE, "batch_size": 4},
            "proposals": [{"method": "grad_cam"}],
            "runtime": {"device": "cpu", "shard_images": 3, "workers": 2},
            "train": list(train),
            **sections,
        }
    )


def make_state(root: Path, index: ImageIndex, *train: dict[str, Any], **sections: Any) -> State:
    """A run as its classifier has been trained: an untrained one."""
    state = State(Run(config(root, *train, **sections), Workspace(root / "workspace")))
    state.index = index
    state.staged = StageFolder(root / "workspace" / "stages" / STAGED)
    state.model = root / "workspace" / "models" / "classifier-aaaaaaaaaaaa"
    classes = len(index.classes)
    torch.manual_seed(1)
    facts = {
        "backbone": "small",
        "head_kind": "gap",
        "keep_stride": [],
        "classes": list(index.classes),
        "multi_label": True,
    }
    save_network(state.model, build_classifier("small", classes), facts, [], 0.0)
    return state


def halves(count: int = IMAGES, height: int = 40, width: int = 36) -> tuple[list[Any], dict[int, Any]]:
    """Grey images with a bright lower part, and masks that call it cat, dog in turn."""
    random = np.random.default_rng(0)
    images, masks = [], {}
    for row in range(count):
        top = int(random.integers(8, height - 8))
        pixels = random.integers(0, 60, (height, width, 3), np.uint8)
        pixels[top:] += 150
        mask = np.zeros((height, width), np.uint8)
        mask[top:] = 1 + row % 2
        images.append(pixels)
        masks[row] = mask
    return images, masks


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    images, _ = halves()
    index = write_images(tmp_path, images, [[CLASSES[row % 2]] for row in range(IMAGES)], SPLITS)
    made = make_state(tmp_path, index, UNET)
    yield made
    made.source().close()


@pytest.fixture
def store(state: State, tmp_path: Path) -> LabelStore:
    _, masks = halves()
    confidences = {row: np.where(mask > 0, 255, 9).astype(np.uint8) for row, mask in masks.items()}
    return write_masks(tmp_path / "mask-aaaaaaaaaaaa", state.index, masks, confidences)


def segmenter(**changes: Any) -> Segmenter:
    return Segmenter.model_validate({**UNET, **changes})


def recurseed(**changes: Any) -> RecurSeed:
    return RecurSeed.model_validate({**RECURSEED, **changes})


def fit(state: State, training: Segmenter | RecurSeed, labels: StageFolder | None, path: Path | None = None) -> Trained:
    where = path or state.run.root / "checkpoint.pt"
    where.unlink(missing_ok=True)
    return fit_segmenter(state, where, quiet, training=training, labels=labels)


def equal(first: Trained, second: Trained) -> bool:
    """Whether two trainings ended alike."""
    weights = all(torch.equal(one, second.weights[name]) for name, one in first.weights.items())
    return weights and repr(first.history) == repr(second.history)


class TestNewSegmenter:
    @pytest.fixture
    def classifier(self) -> ClassifierNetwork:
        torch.manual_seed(1)
        return build_classifier("small", 2)

    def test_kinds(self, classifier: ClassifierNetwork) -> None:
        unet, joint = (new_segmenter(one, classifier, 2) for one in (segmenter(), recurseed()))
        assert isinstance(unet, SegmentationUNet)
        assert isinstance(joint, JointNetwork)
        for one in (unet, joint.segmenter):
            assert one.eval()(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 3, SIDE, SIDE)

    @pytest.mark.parametrize("make", [segmenter, recurseed])
    def test_follows_its_seed(self, classifier: ClassifierNetwork, make: Any) -> None:
        states = []
        for seed, chance in ((0, 5), (0, 6), (1, 5)):
            torch.manual_seed(chance)
            training = make(optimise={"seed": seed})
            states.append(torch.cat([one.flatten() for one in new_segmenter(training, classifier, 2).parameters()]))
        assert torch.equal(states[0], states[1])
        assert not torch.equal(states[0], states[2])

    def test_width(self, classifier: ClassifierNetwork) -> None:
        small, large = (
            sum(one.numel() for one in new_segmenter(segmenter(width=width), classifier, 2).parameters())
            for width in (16, 32)
        )
        assert small < large


class TestFitSegmenter:
    def test_learns_the_masks(self, state: State, store: LabelStore) -> None:
        found = fit(state, segmenter(optimise={"epochs": 8, "batch_size": 2, "learning_rate": 0.03}), store.folder)
        assert found.history[-1]["loss"] < 0.7 * found.history[0]["loss"]
        assert set(found.history[0]) == {"epoch", "loss"}

    def test_the_classifier_stays(self, state: State, store: LabelStore) -> None:
        assert state.model is not None
        before = (state.model / "weights.safetensors").read_bytes()
        shared = own_classifier(state).model.state_dict()
        first = fit(state, segmenter(), store.folder)
        assert (state.model / "weights.safetensors").read_bytes() == before
        again = own_classifier(state).model.state_dict()
        assert all(torch.equal(one, again[name]) for name, one in shared.items())
        assert equal(first, fit(state, segmenter(), store.folder))

    def test_tells_of_every_epoch(self, state: State, store: LabelStore, tmp_path: Path) -> None:
        told: list[tuple[int, int]] = []

        def tell(done: int, total: int, loss: float) -> None:
            assert loss > 0
            told.append((done, total))

        fit_segmenter(state, tmp_path / "c.pt", tell, training=segmenter(), labels=store.folder)
        assert told == [(1, 2), (2, 2)]

    @pytest.mark.parametrize("make", [segmenter, recurseed])
    def test_a_resumed_training_ends_with_the_same_weights(
        self, state: State, store: LabelStore, tmp_path: Path, make: Any
    ) -> None:
        training, path = make(), tmp_path / "killed.pt"
        labels = store.folder if make is segmenter else None
        whole = fit(state, training, labels)

        def die(*_: object) -> None:
            raise KilledError

        with pytest.raises(KilledError):
            fit_segmenter(state, path, die, training=training, labels=labels)
        kept = load_checkpoint(path)
        assert kept is not None
        assert len(kept["history"]) == 1
        assert equal(fit_segmenter(state, path, quiet, training=training, labels=labels), whole)

    def test_only_images_of_its_splits_with_a_known_pixel(
        self, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, masks = halves()
        masks[1][:] = IGNORE
        store = write_masks(tmp_path / "mask-bbbbbbbbbbbb", state.index, masks)
        asked: list[list[int]] = []

        def watch(source: Any, rows: list[int], *given: Any, **options: Any) -> Any:
            asked.append(rows)
            return labelled_batches(source, rows, *given, **options)

        monkeypatch.setattr(module, "labelled_batches", watch)
        fit(state, segmenter(), store.folder)
        fit(state, segmenter(split=["val", "train"]), store.folder)
        fit(state, recurseed(), None)
        assert asked == [[0, 2, 3, 4], [0, 2, 3, 4, 5], [0, 1, 2, 3, 4]]

    def test_confidence_changes_what_is_learned(self, state: State, store: LabelStore) -> None:
        plain, sure = (fit(state, segmenter(confidence=one), store.folder) for one in (False, True))
        assert plain.history != sure.history

    @pytest.mark.parametrize("change", [{"resize": 64}, {"flip": False}, {"vertical_flip": True}, {"input_size": 40}])
    def test_augmentation_changes_what_is_learned(
        self, state: State, store: LabelStore, change: dict[str, Any]
    ) -> None:
        plain, changed = (fit(state, one, store.folder) for one in (segmenter(), segmenter(**change)))
        assert plain.history != changed.history

    def test_recurseed_has_a_term_for_each_loss(self, state: State) -> None:
        first, last = fit(state, recurseed(), None).history
        parts = ["classification", "segmentation", "reconstruction"]
        mixed = [f"mix_{name}" for name in parts]
        assert first.keys() == {"epoch", "loss", *parts}
        assert last.keys() == first.keys() | set(mixed)
        assert all(math.isfinite(one) for one in [*first.values(), *last.values()])

    @pytest.mark.parametrize("known", [0, 1])
    def test_refuses_too_few_masks(self, state: State, tmp_path: Path, known: int) -> None:
        _, masks = halves()
        store = write_masks(
            tmp_path / "mask-cccccccccccc", state.index, {row: masks[row] for row in (5, 2)[: known + 1]}
        )
        message = (
            rf"train: unet-first: expected at least two images to learn from in train, saw {known} of 5 with a label "
            "in mask-cccccccccccc"
        )
        with pytest.raises(TeacherError, match=message):
            fit(state, segmenter(), store.folder)
        assert not (tmp_path / "checkpoint.pt").exists()

    def test_refuses_images_without_a_class(self, tmp_path: Path) -> None:
        images, _ = halves()
        index = write_images(tmp_path, images, [[], ["cat"], [], [], [], ["cat"]], SPLITS)
        state = make_state(tmp_path, index, RECURSEED)
        with pytest.raises(TeacherError, match="saw 1 of 5 with a label in the data set"):
            fit(state, recurseed(), None)

    def test_a_loss_that_is_not_finite_names_the_section(self, state: State, store: LabelStore, tmp_path: Path) -> None:
        optimise = {"epochs": 3, "batch_size": 2, "learning_rate": 1e30}
        known = make_state(tmp_path, state.index, {**UNET, "optimise": optimise})
        with pytest.raises(TrainingError, match=r"lower train: unet-first: optimise\.learning_rate"):
            fit(known, segmenter(optimise=optimise), store.folder)
        # What the list of trainings does not have is a round of recursion.
        with pytest.raises(TrainingError, match=r"lower recurse: train: unet-first: optimise\.learning_rate"):
            fit(state, segmenter(optimise=optimise), store.folder)


class TestCheckSegmenters:
    def check(self, state: State, *train: dict[str, Any], **sections: Any) -> None:
        made = State(Run(config(state.run.root, *train, **sections), state.run.workspace))
        made.index, made.truth = state.index, state.truth
        check_segmenters(made)

    def test_accepts(self, state: State, store: LabelStore) -> None:
        self.check(state)
        self.check(state, UNET, RECURSEED, recurse={"train": UNET})
        state.truth = store.folder
        self.check(state, {**UNET, "labels": "ground_truth", "split": ["train", "val"]})

    def refusal(self, state: State, change: dict[str, Any], where: str) -> str:
        training = {**UNET, **change}
        train: list[dict[str, Any]] = [training] if where == "train" else []
        sections: dict[str, Any] = {"recurse": {"train": training}} if where == "recurse" else {}
        with pytest.raises(ConfigError) as error:
            self.check(state, *train, **sections)
        return str(error.value)

    WHERE = pytest.mark.parametrize(
        ("where", "title"), [("train", "train: unet-first: "), ("recurse", "recurse: train: ")]
    )

    @WHERE
    def test_refuses_an_unknown_split(self, state: State, where: str, title: str) -> None:
        found = self.refusal(state, {"split": ["train", "nowhere"]}, where)
        assert found == f"{title}split: expected one of train, val, saw 'nowhere'"

    @WHERE
    def test_refuses_an_unknown_backbone(self, state: State, where: str, title: str) -> None:
        found = self.refusal(state, {"backbone": "resnet999"}, where)
        assert found.startswith(title)
        assert "resnet999" in found

    @WHERE
    def test_refuses_strides_that_a_backbone_does_not_have(self, state: State, where: str, title: str) -> None:
        assert self.refusal(state, {"keep_stride": ["S5"]}, where).startswith(title)

    @WHERE
    def test_refuses_views_that_are_too_small(self, state: State, where: str, title: str) -> None:
        found = self.refusal(state, {"inference": {"scales": [1.0, 0.9]}}, where)
        assert found == (
            f"{title}inference.scales: expected images of 32 pixels a side and more, saw 0.9 of classifier.input_size "
            "32"
        )

    @WHERE
    def test_refuses_batches_of_one_image_a_process(self, state: State, where: str, title: str) -> None:
        found = self.refusal(state, {"optimise": {"batch_size": 3, "processes": 2}}, where)
        assert found == (f"{title}optimise.batch_size: expected two images and more for each of 2 processes, saw 3")

    def test_refuses_the_ceiling_without_ground_truth(self, state: State) -> None:
        message = r"train: unet-ground_truth: labels: expected a data set with ground truth masks, it has none"
        with pytest.raises(ConfigError, match=message):
            self.check(state, {**UNET, "labels": "ground_truth"})

    @pytest.mark.parametrize("train", [UNET, RECURSEED])
    def test_refuses_more_classes_than_a_mask_has_room_for(self, tmp_path: Path, train: dict[str, Any]) -> None:
        state = State(Run(config(tmp_path, train), Workspace(tmp_path / "workspace")))
        for count in (254, 255):
            names = [f"c{number:03d}" for number in range(count)]
            state.index = write_images(tmp_path, halves(2)[0], [[names[0]], [names[-1]]], classes=names)
            if count == 254:
                check_segmenters(state)
                continue
            with pytest.raises(ConfigError, match=r"expected at most 254 classes, the data set has 255"):
                check_segmenters(state)
