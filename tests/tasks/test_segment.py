"""Training on stored masks: the learner and its loss, the network as it begins, and batches that turn alike."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from configs.normalise import Normalise
from configs.segmentation import SegmentationOptimisation, Segmenter
from methods.losses import partial_cross_entropy
from methods.networks import ClassifierNetwork, build_classifier, build_segmenter
from storage.index import IGNORE, SCHEMA, ImageIndex, build_index
from storage.labels import LabelStore, to_canvas
from storage.stages import StageFolder
from storage.weights import save_state
from tasks.engine import Batch, Batches, Engine, Moment, TrainingError
from tasks.images import ImageSource, to_input
from tasks.refine import begin_masks
from tasks.segment import SegmentLearner, labelled_batches, labelled_rows, start_network, weighted_cross_entropy
from tests.tasks.stores import STAGED

CPU = torch.device("cpu")
CLASSES = ("cat", "dog")
RESIZE, SIZE, SHARD = 20, 16, 3
START = Moment(0, 0, 0, 0.0)
Pixels = npt.NDArray[np.uint8]


def write_images(
    folder: Path,
    images: Sequence[Pixels],
    labels: Sequence[Sequence[str]],
    splits: Sequence[str] | None = None,
    classes: Sequence[str] = CLASSES,
) -> ImageIndex:
    """Write images ``(H, W, 3)`` and make their index."""
    rows = []
    for number, one in enumerate(images):
        path = folder / f"i{number}.png"
        Image.fromarray(one).save(path)
        rows.append(
            {
                "image_id": f"i{number}",
                "path": path.name,
                "split": splits[number] if splits else "train",
                "width": one.shape[1],
                "height": one.shape[0],
                "mode": "RGB",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "labels": list(labels[number]),
                "status": "ok",
                "reason": "",
                "orientation": 1,
                "bytes": path.stat().st_size,
            }
        )
    return build_index(pa.Table.from_pylist(rows, pa.schema(list(SCHEMA)[:12])), classes)


def write_masks(
    folder: Path, index: ImageIndex, masks: Mapping[int, Pixels], confidences: Mapping[int, Pixels] | None = None
) -> LabelStore:
    """A finished label set; rows without a mask read as ignore, without a confidence as 0."""
    made = StageFolder(folder)
    begin_masks(made, {"shard_images": SHARD}, index, STAGED)
    for shard in index.shards(SHARD):
        known, sure = (
            {row: found[row] for row in index.working_rows(shard) if row in found}
            for found in (masks, confidences or {})
        )
        arrays = {
            index.array_name("label", shard.canvas): (shard.object, to_canvas(known, shard, IGNORE)),
            index.array_name("confidence", shard.canvas): (shard.object, to_canvas(sure, shard, 0)),
        }
        made.write(shard.number, arrays=arrays)
    return LabelStore(made, index)


@dataclass
class Pairs:
    """Images and masks of the same values, with confidences that are the rest to 255."""

    source: ImageSource
    store: LabelStore


@pytest.fixture
def pairs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pairs]:
    """Seven images of the side that training images are resized to, or of another one, in random grey."""
    side = getattr(request, "param", RESIZE)
    random = np.random.default_rng(0)
    masks = {row: random.integers(0, 250, (side, side), np.uint8) for row in range(7)}
    labels = [[CLASSES[row % 2]] for row in masks]
    index = write_images(tmp_path, [np.stack([one] * 3, axis=-1) for one in masks.values()], labels)
    store = write_masks(tmp_path / "mask-aaaaaaaaaaaa", index, masks, {row: 255 - one for row, one in masks.items()})
    source = ImageSource(tmp_path, index, max_pixels=10**6)
    yield Pairs(source, store)
    source.close()


def drawn(pairs: Pairs, epoch: int = 0, **options: Any) -> list[Batch]:
    """All batches of an epoch; seven images make two batches of three."""
    chosen: dict[str, Any] = {
        "store": pairs.store,
        "confidence": True,
        "batch_size": 3,
        "resize": RESIZE,
        "size": SIZE,
        "flip": True,
        "vertical": True,
        "seed": 0,
        **options,
    }
    batches, steps = labelled_batches(pairs.source, range(7), Normalise(), **chosen)(epoch)
    found = list(batches)
    assert len(found) == steps
    return found


def same(first: list[Batch], second: list[Batch]) -> bool:
    """Whether batches hold the same rows and tensors."""
    return [one.rows for one in first] == [one.rows for one in second] and all(
        torch.equal(value, other.tensors[name])
        for one, other in zip(first, second, strict=True)
        for name, value in one.tensors.items()
    )


class TestLabelledBatches:
    def test_smoke(self, pairs: Pairs) -> None:
        found = drawn(pairs, batch_size=4)
        assert sorted(row for one in found for row in one.rows) == list(range(7))
        assert [len(one.rows) for one in found] == [4, 3]
        tensors, targets = found[0].tensors, torch.from_numpy(pairs.source.index.targets)
        assert {name: (tuple(one.shape), one.dtype) for name, one in tensors.items()} == {
            "pixels": ((4, 3, SIZE, SIZE), torch.uint8),
            "targets": ((4, 2), targets.dtype),
            "images": ((4, 3, SIZE, SIZE), torch.float32),
            "labels": ((4, SIZE, SIZE), torch.uint8),
            "confidence": ((4, SIZE, SIZE), torch.uint8),
        }
        assert torch.equal(tensors["images"], to_input(tensors["pixels"], Normalise(), CPU))
        assert torch.equal(tensors["targets"], targets[found[0].rows])

    @pytest.mark.parametrize(("flip", "vertical"), [(True, True), (True, False), (False, True), (False, False)])
    def test_image_mask_and_confidence_turn_alike(self, pairs: Pairs, flip: bool, vertical: bool) -> None:
        turned = set()
        for epoch in range(4):
            for one in drawn(pairs, epoch, flip=flip, vertical=vertical):
                assert torch.equal(one.tensors["pixels"][:, 0], one.tensors["labels"])
                assert torch.equal(one.tensors["confidence"], 255 - one.tensors["labels"])
                masks = (torch.from_numpy(pairs.store.mask(row)) for row in one.rows)
                turned |= {_turn(mask, crop) for mask, crop in zip(masks, one.tensors["labels"], strict=True)}
        assert turned == {(a, b) for a in {False, flip} for b in {False, vertical}}

    @pytest.mark.parametrize("pairs", [33], indirect=True)
    def test_labels_of_another_size_do_not_mix(self, pairs: Pairs) -> None:
        for one in drawn(pairs, resize=47, size=40):
            for row, labels in zip(one.rows, one.tensors["labels"], strict=True):
                assert set(labels.unique().tolist()) <= set(pairs.store.mask(row).flatten().tolist())
            assert torch.equal(one.tensors["confidence"], 255 - one.tensors["labels"])

    def test_of_another_size_image_and_mask_lie_on_each_other(self, tmp_path: Path) -> None:
        mask = np.zeros((31, 45), np.uint8)
        mask[:, 20:] = 200
        index = write_images(tmp_path, [np.stack([mask] * 3, axis=-1)] * 7, [["cat"]] * 7)
        store = write_masks(tmp_path / "mask-aaaaaaaaaaaa", index, dict.fromkeys(range(7), mask))
        source = ImageSource(tmp_path, index, max_pixels=10**6)
        for one in drawn(Pairs(source, store), confidence=False, resize=80, size=64):
            apart = (one.tensors["pixels"][:, 0].int() - one.tensors["labels"].int()).abs() > 100
            # The seam: at half height both agree.
            assert not apart.any()
        source.close()

    def test_a_last_batch_of_one_is_left_out(self, pairs: Pairs) -> None:
        assert [len(one.rows) for one in drawn(pairs)] == [3, 3]
        # Another one in another epoch.
        assert {row for epoch in range(4) for one in drawn(pairs, epoch) for row in one.rows} == set(range(7))

    def test_same_batches_for_the_same_seed_and_epoch(self, pairs: Pairs) -> None:
        torch.manual_seed(1)
        first = drawn(pairs, 3)
        torch.manual_seed(2)
        assert same(first, drawn(pairs, 3))

    def test_others_for_another_epoch_or_seed(self, pairs: Pairs) -> None:
        first = drawn(pairs, 3)
        assert not same(first, drawn(pairs, 4))
        assert not same(first, drawn(pairs, 3, seed=1))

    def test_crops_do_not_depend_on_what_is_asked_for(self, pairs: Pairs) -> None:
        plain, sure, bare = drawn(pairs, confidence=False), drawn(pairs), drawn(pairs, store=None, confidence=False)
        assert [set(one[0].tensors) - {"pixels", "images", "targets"} for one in (bare, plain, sure)] == [
            set(),
            {"labels"},
            {"labels", "confidence"},
        ]
        assert same(plain, sure)
        assert same(bare, plain)


def _turn(mask: Tensor, crop: Tensor) -> tuple[bool, bool]:
    """Whether a crop of a mask is mirrored, and whether it is upside down."""
    windows = mask.unfold(0, SIZE, 1).unfold(1, SIZE, 1)
    for mirrored in (False, True):
        for upside in (False, True):
            axes = [axis for axis, wanted in ((-1, mirrored), (-2, upside)) if wanted]
            if (windows == crop.flip(axes)).all(dim=-1).all(dim=-1).any():
                return mirrored, upside
    raise AssertionError("expected a crop of the mask")


class TestLabelledRows:
    def test_those_with_a_known_pixel(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (6 + row % 2, 8, 3), np.uint8) for row in range(6)]
        index = write_images(tmp_path, images, [["cat"]] * 6)
        masks = {row: np.full(one.shape[:2], IGNORE, np.uint8) for row, one in enumerate(images)}
        masks[1][2, 3] = 0
        masks[4][-1, -1] = 2
        store = write_masks(tmp_path / "mask-aaaaaaaaaaaa", index, {row: masks[row] for row in (0, 1, 3, 4)})
        assert labelled_rows(store, range(6)) == [1, 4]
        assert labelled_rows(store, [5, 4, 0]) == [4]
        assert labelled_rows(store, []) == []

    def test_margins_of_the_canvas_are_no_pixels(self, tmp_path: Path) -> None:
        images = [np.zeros((6, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)]
        index = write_images(tmp_path, images, [["cat"]] * 2)
        store = write_masks(tmp_path / "mask-aaaaaaaaaaaa", index, {0: np.full((6, 8), IGNORE, np.uint8)})
        assert labelled_rows(store, range(2)) == []


class TestWeightedCrossEntropy:
    @given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
    @settings(max_examples=20, deadline=None)
    def test_slow_construction(self, seed: int, classes: int, some_unknown: bool) -> None:
        random = torch.Generator().manual_seed(seed)
        logits = torch.randn(2, classes + 1, 3, 4, generator=random, dtype=torch.float64)
        labels = torch.randint(classes + 1, (2, 3, 4), generator=random).to(torch.uint8)
        weights = torch.randint(256, (2, 3, 4), generator=random).to(torch.uint8)
        weights[0, 0, 0] = 7
        if some_unknown:
            labels[torch.rand(2, 3, 4, generator=random) < 0.4] = IGNORE
        labels[0, 0, 0] = 0
        above, below = 0.0, 0.0
        for b in range(2):
            for y in range(3):
                for x in range(4):
                    k, share = int(labels[b, y, x]), int(weights[b, y, x]) / 255
                    if k != IGNORE:
                        z = logits[b, :, y, x]
                        above += share * float(z.exp().sum().log() - z[k])
                        below += share
        found = weighted_cross_entropy(logits, labels, weights)
        assert found.item() == pytest.approx(above / below, rel=1e-5)

    def test_equal_weights_are_the_plain_loss(self) -> None:
        torch.manual_seed(0)
        logits, labels = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8)).to(torch.uint8)
        labels[:, :3] = IGNORE
        plain = partial_cross_entropy(logits, labels.long(), ignore=IGNORE)
        for weight in (1, 128, 255):
            weights = torch.full((2, 8, 8), weight, dtype=torch.uint8)
            torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights), plain)

    def test_unknown_and_weightless_pixels_teach_nothing(self) -> None:
        logits = torch.randn(1, 3, 2, 3, requires_grad=True)
        labels = torch.tensor([[[0, IGNORE, 2], [1, 1, IGNORE]]], dtype=torch.uint8)
        weights = torch.tensor([[[255, 255, 0], [9, 0, 0]]], dtype=torch.uint8)
        (gradient,) = torch.autograd.grad(weighted_cross_entropy(logits, labels, weights), logits)
        taught = gradient.abs().sum(dim=1) > 0
        assert torch.equal(taught, (labels != IGNORE) & (weights > 0))

    @pytest.mark.parametrize(("label", "weight"), [(IGNORE, 255), (1, 0), (IGNORE, 0)])
    def test_nothing_known_is_no_loss(self, label: int, weight: int) -> None:
        logits = torch.randn(2, 3, 4, 4, requires_grad=True)
        labels, weights = (torch.full((2, 4, 4), value, dtype=torch.uint8) for value in (label, weight))
        loss = weighted_cross_entropy(logits, labels, weights)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss == 0
        assert torch.equal(gradient, torch.zeros_like(logits))


class Pointwise(nn.Module):
    """Logits of every pixel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.mix(images)
        return found


def tensors(seed: int = 0, count: int = 4, *, confidence: bool = False) -> dict[str, Tensor]:
    """Images whose strongest colour is their label."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count, 8, 8), generator=random)
    images = F.one_hot(labels, 3).permute(0, 3, 1, 2) + 0.1 * torch.rand(count, 3, 8, 8, generator=random)
    made = {"images": images, "labels": labels.to(torch.uint8)}
    if confidence:
        made["confidence"] = torch.randint(1, 256, (count, 8, 8), generator=random).to(torch.uint8)
    return made


def batches(**options: Any) -> Batches:
    def make(epoch: int) -> Any:
        return (Batch([0, 1, 2, 3], tensors(10 * epoch + step, **options)) for step in range(4)), 4

    return make


class TestSegmentLearner:
    @pytest.mark.parametrize("confidence", [False, True])
    def test_the_term_is_the_loss(self, confidence: bool) -> None:
        made, given_ = SegmentLearner(Pointwise()), tensors(confidence=confidence)
        (loss,) = made(given_, START).values()
        logits = made.network(given_["images"])
        known = (
            weighted_cross_entropy(logits, given_["labels"], given_["confidence"])
            if confidence
            else F.cross_entropy(logits, given_["labels"].long(), ignore_index=IGNORE)
        )
        torch.testing.assert_close(loss, known)
        assert made.trained is made.network

    @pytest.mark.parametrize("confidence", [False, True])
    def test_nothing_known_is_no_loss(self, confidence: bool) -> None:
        made, given_ = SegmentLearner(Pointwise()), tensors(confidence=confidence)
        given_["labels"][:] = IGNORE
        (loss,) = made(given_, START).values()
        loss.backward()
        assert loss == 0
        assert not any(one.grad is not None and one.grad.any() for one in made.trained.parameters())

    def test_layouts_agree(self) -> None:
        torch.manual_seed(0)
        network = Pointwise()
        plain = SegmentLearner(network)(tensors(), START)
        last = SegmentLearner(network, channels_last=True)(tensors(), START)
        torch.testing.assert_close(plain, last)

    def test_half_precision(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            (loss,) = SegmentLearner(Pointwise())(tensors(confidence=True), START).values()
        assert loss.dtype == torch.float32

    def test_among_several_processes_every_parameter_has_a_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = Pointwise()
        network.unused = nn.Linear(2, 2)
        made = SegmentLearner(network)
        (alone,) = made(tensors(), START).values()
        alone.backward()
        assert network.unused.weight.grad is None
        known = network.mix.weight.grad
        assert known is not None
        gradient = known.clone()
        made.zero_grad()
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        (loss,) = made(tensors(), START).values()
        loss.backward()
        assert loss == alone
        assert torch.equal(network.mix.weight.grad, gradient)  # type: ignore[arg-type]
        assert not any(one.grad.any() for one in network.unused.parameters())  # type: ignore[union-attr]

    @pytest.mark.parametrize("confidence", [False, True])
    def test_learns(self, confidence: bool) -> None:
        torch.manual_seed(0)
        options = SegmentationOptimisation(epochs=10, learning_rate=0.5)
        engine = Engine(SegmentLearner(Pointwise()), options, CPU, where="train: x", ids=list("abcd"))
        history = engine.fit(batches(confidence=confidence), None, lambda *_: None)
        assert history[-1]["loss"] < 0.3 * history[0]["loss"]
        assert set(history[0]) == {"epoch", "loss"}

    @pytest.mark.parametrize("confidence", [False, True])
    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_a_loss_that_is_not_finite_ends_the_training(self, confidence: bool, value: str) -> None:
        made = SegmentLearner(Pointwise())
        nn.init.constant_(next(made.network.parameters()), float(value))
        engine = Engine(made, SegmentationOptimisation(), CPU, where="train: x: optimise", ids=list("abcd"))
        message = (
            r"epoch 1, step 1: expected a finite loss, saw segmentation \S+ on the images a, b, c, d; lower train: x"
        )
        with pytest.raises(TrainingError, match=message):
            engine.fit(batches(confidence=confidence), None, lambda *_: None)


@pytest.fixture(scope="module")
def classifier() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 2)
    made.model.eval().requires_grad_(False)
    return made


class TestStartNetwork:
    def start(
        self, classifier: ClassifierNetwork, seed: int = 2, classes: int = 2, **changes: Any
    ) -> ClassifierNetwork:
        torch.manual_seed(seed)
        return start_network(Segmenter(model="unet", **changes), classifier, classes)

    @pytest.mark.parametrize("backbone", [None, "small"])
    def test_of_the_same_backbone_it_takes_the_weights(
        self, classifier: ClassifierNetwork, backbone: str | None
    ) -> None:
        made, known = self.start(classifier, backbone=backbone), classifier.model.state_dict()
        for name, one in made.model.state_dict().items():
            assert torch.equal(one, known[name]), name

    def test_it_is_a_copy_that_learns(self, classifier: ClassifierNetwork) -> None:
        made = self.start(classifier)
        own = {one.data_ptr() for one in classifier.model.parameters()}
        assert not any(one.data_ptr() in own for one in made.model.parameters())
        assert all(one.requires_grad for one in made.model.parameters())
        assert not any(one.requires_grad for one in classifier.model.parameters())

    def test_of_another_backbone_it_takes_none(self, classifier: ClassifierNetwork) -> None:
        made = self.start(classifier, backbone="resnet18")
        assert made.backbone == "resnet18"
        torch.manual_seed(2)
        plain = build_classifier("resnet18", 2)
        known = plain.model.state_dict()
        assert all(torch.equal(one, known[name]) for name, one in made.model.state_dict().items())

    def test_a_file_comes_before_the_classifier(self, classifier: ClassifierNetwork, tmp_path: Path) -> None:
        torch.manual_seed(3)
        other = build_classifier("small", 5).model.state_dict()
        save_state(tmp_path / "other.safetensors", other)
        made = self.start(classifier, weights=str(tmp_path / "other.safetensors")).model.state_dict()
        taken = {name for name, one in made.items() if one.shape == other[name].shape}
        assert all(torch.equal(made[name], other[name]) for name in taken)
        assert {name.split(".")[0] for name in made.keys() - taken} == {"head"}

    def test_stride_is_taken_out(self) -> None:
        torch.manual_seed(1)
        resnet = build_classifier("resnet18", 2)
        made = start_network(Segmenter(model="unet", keep_stride=["S5"]), resnet, 2)
        state = resnet.model.state_dict()
        assert all(torch.equal(one, state[name]) for name, one in made.model.state_dict().items())
        image = torch.zeros(1, 3, 64, 64)
        sides = [one.model.eval().get_submodule("layer4") for one in (resnet, made)]
        found: list[torch.Size] = []
        for one, network in zip(sides, (resnet, made), strict=True):
            one.register_forward_hook(lambda _module, _given, out: found.append(out.shape[-2:]))
            network.model(image)
        assert found == [(2, 2), (4, 4)]

    def test_refuses_an_unknown_backbone(self, classifier: ClassifierNetwork) -> None:
        with pytest.raises(ValueError, match="resnet999"):
            self.start(classifier, backbone="resnet999")


class TestGroups:
    def test_new_parts_learn_ten_times_faster(self) -> None:
        network = build_segmenter("unet", build_classifier("small", 2), 2, width=16)
        alike, apart = SegmentLearner(network), SegmentLearner(network, decay=0.5)
        (every,) = alike.groups()
        assert "factor" not in every
        groups = apart.groups()
        assert [one["factor"] for one in groups] == [1.0, 2.0, 10.0, 20.0]
        assert [one["weight_decay"] for one in groups] == [0.5, 0.0, 0.5, 0.0]
        assert sum(len(one["params"]) for one in groups) == len(every["params"])
        encoder = {id(one) for one in network.encoder.parameters()}
        assert all(id(one) in encoder for group in groups[:2] for one in group["params"])
