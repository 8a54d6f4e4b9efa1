"""Predicted label sets: which classes may appear, images that are set aside, views, and files that have changed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tasks.predict as module
from configs.recurseed import RecurSeed
from configs.segmentation import Segmenter
from methods.networks.joint_network import Joint
from methods.refinement import pamr
from storage.index import IGNORE, ImageIndex
from storage.labels import LabelStore
from storage.models import WEIGHTS, weights_digest
from storage.stages import FACTS, StageFolder
from tasks.fit_decoder import own_classifier
from tasks.fit_segmenter import new_segmenter
from tasks.network import save_model
from tasks.predict import Predictor, PredictWork, load_predictor
from tasks.propose import LOGITS
from tasks.refine import FAILURES, begin_masks
from tasks.report import quarantine_table
from tasks.state import State
from tests.tasks.stores import STAGED
from tests.tasks.test_fit_segmenter import RECURSEED, SIDE, UNET, make_state
from tests.tasks.test_segment import write_images

CAT, DOG = 1, 2
LABELS = [["cat"], ["dog"], [], ["cat", "dog"], ["cat"], ["dog"]]
SIZES = [(32, 32), (48, 40), (20, 60), (32, 32), (64, 64), (33, 35)]
DARK, RED, GREEN = (10, 10, 10), (250, 10, 10), (10, 250, 10)


class Colours(nn.Module):
    """Sees background in the dark, class 1 in red and class 2 in green; NaN where blue is full."""

    def __init__(self, sharpness: float = 4.0) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = images.unbind(1)
        logits = torch.stack([-torch.maximum(red, green), red - green, green - red], dim=1) * self.sharpness
        return torch.where(blue[:, None] > 1.9, torch.nan, logits)


class JointColours(Colours):
    """The same with class scores: likely where the image's mean is red, or green."""

    def forward(self, images: Tensor) -> Any:
        means = images.mean(dim=(2, 3))[:, :2]
        return Joint(images[:, :2], 10 * means, super().forward(images), [])


def picture(size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Dark at the left, red in the middle, green at the right."""
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = DARK
    pixels[:, size[1] // 4 :] = RED
    pixels[:, size[1] * 3 // 4 :] = GREEN
    return pixels


@pytest.fixture
def images() -> list[np.ndarray[Any, Any]]:
    return [picture(size) for size in SIZES]


@pytest.fixture
def make(tmp_path: Path, images: list[Any]) -> Iterator[Callable[..., State]]:
    """A run on images, without normalisation other than to -2..2."""
    made: list[State] = []

    def state(**sections: Any) -> State:
        index = write_images(tmp_path, images, LABELS)
        classifier = {
            "backbone": "small",
            "input_size": SIDE,
            "batch_size": 4,
            "normalise": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        }
        made.append(make_state(tmp_path, index, **{"classifier": classifier, **sections}))
        return made[-1]

    yield state
    for one in made:
        one.source().close()


def segmenter(**inference: Any) -> Segmenter:
    return Segmenter.model_validate({**UNET, "inference": inference})


def recurseed(**inference: Any) -> RecurSeed:
    return RecurSeed.model_validate({**RECURSEED, "inference": inference})


def predict(
    state: State,
    training: Segmenter | RecurSeed,
    network: nn.Module | None = None,
    scores: Tensor | None = None,
    name: str = "predict-aaaaaaaaaaaa",
) -> LabelStore:
    """Masks of all shards."""
    plain = Colours() if isinstance(training, Segmenter) else JointColours()
    predictor = Predictor(training, (network or plain).eval().requires_grad_(False), state.index, scores)
    folder = StageFolder(state.run.root / name)
    size = state.run.config.runtime.shard_images
    begin_masks(folder, {"shard_images": size}, state.index, STAGED)
    work = PredictWork(state.run.config, predictor, state.source(), state.device, folder)
    for shard in work.missing():
        work(shard)
    assert folder.complete
    return LabelStore(folder, state.index)


def shown(store: LabelStore, row: int) -> set[int]:
    """Labels in an image's mask."""
    return set(np.unique(store.mask(row)).tolist())


class TestPredictWork:
    def test_smoke(self, make: Callable[..., State]) -> None:
        store = predict(make(), segmenter())
        for row, size in enumerate(SIZES):
            mask, sure = store.mask(row), store.mask(row, "confidence")
            assert mask.shape == sure.shape == size
            assert mask.dtype == sure.dtype == np.uint8
            columns = [size[1] // 8, size[1] // 2, size[1] - 2]
            assert (mask[:, columns] == [0, CAT, DOG]).all()
            assert (sure[:, columns] > 200).all()

    def test_margins_of_the_canvas_say_nothing(self, make: Callable[..., State]) -> None:
        store = predict(make(), segmenter())
        for shard in store.index.shards(3):
            masks, sure = store.shard_masks(shard), store.shard_masks(shard, "confidence")
            for row in shard.rows:
                height, width = SIZES[row]
                outside = np.ones(shard.canvas, bool)
                outside[:height, :width] = False
                assert (masks[row - shard.rows.start][outside] == IGNORE).all()
                assert (sure[row - shard.rows.start][outside] == 0).all()

    def test_confidence_is_the_share_of_the_best(self, make: Callable[..., State]) -> None:
        state = make()
        store = predict(state, segmenter(flip=False), Colours(0.3))
        # An image of the network's own size: nothing is resized.
        pixels = torch.from_numpy(state.source().pixels(0).transpose(2, 0, 1).copy())[None]
        shares = Colours(0.3)((pixels / 255 - 0.5) / 0.25).softmax(dim=1)[0].detach()
        assert np.abs(store.mask(0, "confidence") - (255 * shares.amax(0)).numpy()).max() <= 0.51
        assert (store.mask(0) == shares.argmax(0).numpy()).all()
        everything = np.concatenate([store.mask(row, "confidence").ravel() for row in range(6)])
        assert everything.min() >= 255 / 3 - 1

    def test_facts(self, make: Callable[..., State]) -> None:
        store = predict(make(), segmenter(gate="labels"))
        facts = store.folder.table(FACTS).to_pylist()
        # One row per class of the image or of its mask, whether or not it shows.
        assert [(one["row"], one["class_id"]) for one in facts] == [
            (0, CAT),
            (1, DOG),
            (3, CAT),
            (3, DOG),
            (4, CAT),
            (5, DOG),
        ]
        for one in facts:
            mask, sure = store.mask(one["row"]), store.mask(one["row"], "confidence")
            assert one["share"] == pytest.approx((mask == one["class_id"]).mean())
            assert one["score"] == pytest.approx(sure[mask == one["class_id"]].mean() / 255, abs=1e-6)
            assert one["confidence"] == pytest.approx(sure.mean() / 255)
            assert (one["class"], one["image_id"]) == (store.index.classes[one["class_id"] - 1], f"i{one['row']}")
        everything = predict(make(), segmenter(), name="predict-bbbbbbbbbbbb").folder.table(FACTS)
        assert everything.num_rows == 12
        assert store.folder.table(FAILURES).num_rows == 0

    def test_shards_and_batches_change_nothing(self, make: Callable[..., State]) -> None:
        first, second = (
            predict(make(runtime={"device": "cpu", "shard_images": size}), segmenter(), name=f"predict-{size}")
            for size in (2, 6)
        )
        for row in range(6):
            assert (first.mask(row) == second.mask(row)).all()
            assert np.abs(first.mask(row, "confidence").astype(int) - second.mask(row, "confidence")).max() <= 1

    def test_less_memory_same_masks(self, make: Callable[..., State]) -> None:
        state, tries = make(), []

        class Scarce(Colours):
            def forward(self, images: Tensor) -> Tensor:
                tries.append(len(images))
                if len(images) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().forward(images)

        plain, scarce = (
            predict(state, segmenter(flip=False), network, name=f"predict-{number}")
            for number, network in enumerate((Colours(), Scarce()))
        )
        assert tries[:2] == [3, 1]
        assert all((plain.mask(row) == scarce.mask(row)).all() for row in range(6))


class TestGates:
    def test_none_lets_every_class_in(self, make: Callable[..., State]) -> None:
        store = predict(make(), segmenter(gate="none"))
        assert all(shown(store, row) == {0, CAT, DOG} for row in range(6))

    @pytest.mark.parametrize("stretch", [False, True])
    @pytest.mark.parametrize("refine", [False, True])
    @pytest.mark.parametrize("train", [segmenter, recurseed])
    def test_labels_let_in_the_images_own(
        self, make: Callable[..., State], train: Any, refine: bool, stretch: bool
    ) -> None:
        store = predict(make(), train(gate="labels", pamr=refine, stretch=stretch))
        for row in range(6):
            assert shown(store, row) == {0, *store.index.class_ids[row]}
        # Without a class there is only background left, and no doubt about it.
        assert (store.mask(2, "confidence") == 255).all()

    def test_scores_let_in_what_the_classifier_saw(self, make: Callable[..., State]) -> None:
        scores = torch.tensor([[0.9, 0.1], [0.33, 0.35], [0.34, 0.0], [0.0, 0.0], [1.0, 1.0], [0.1, 0.3]])
        store = predict(make(), segmenter(gate="scores"), scores=scores)
        assert [shown(store, row) for row in range(6)] == [
            {0, CAT},
            {0, DOG},
            {0, CAT},
            {0},
            {0, CAT, DOG},
            {0},
        ]

    def test_threshold_of_scores(self, make: Callable[..., State]) -> None:
        scores = torch.tensor([[0.9, 0.1]]).expand(6, 2)
        strict, lax = (
            predict(make(), segmenter(gate="scores", gate_threshold=one), scores=scores, name=f"predict-{one}")
            for one in (0.95, 0.05)
        )
        assert (shown(strict, 0), shown(lax, 0)) == ({0}, {0, CAT, DOG})

    def test_recurseed_asks_its_own_classes(self, make: Callable[..., State], images: list[Any]) -> None:
        images[1][:, 8:] = RED
        images[4][:, 16:] = GREEN
        store = predict(make(), recurseed(gate="scores"))
        assert (shown(store, 1), shown(store, 4)) == ({0, CAT}, {0, DOG})

    def test_stretched_a_class_that_may_appear_does(self, make: Callable[..., State]) -> None:
        class Doubtful(Colours):
            def forward(self, images: Tensor) -> Tensor:
                return torch.cat([torch.ones_like(images[:, :1]), 0.1 * images[:, :2]], dim=1)

        state = make()
        plain, stretched = (
            predict(state, segmenter(gate="labels", stretch=one), Doubtful(), name=f"predict-{one}")
            for one in (False, True)
        )
        for row in range(6):
            assert shown(plain, row) == {0}
            assert shown(stretched, row) - {0} == set(state.index.class_ids[row])


class TestNotFinite:
    @pytest.mark.parametrize("train", [segmenter, recurseed])
    @pytest.mark.parametrize(
        "inference",
        [
            {},
            {"gate": "scores", "gate_threshold": 0},
            {"gate": "labels", "stretch": True, "pamr": True, "scales": [1.0, 2.0]},
        ],
    )
    def test_the_image_is_set_aside_and_no_other(
        self, make: Callable[..., State], images: list[Any], train: Any, inference: dict[str, Any]
    ) -> None:
        given = torch.ones(6, 2) if train is segmenter and inference.get("gate") == "scores" else None
        plain = predict(make(), train(**inference), scores=given, name="predict-plain")
        images[1][10:20, 10:20, 2] = 255
        images[3][:, :, 2] = 255
        training = train(**inference)
        state = make()
        store = predict(state, training, scores=given)
        for row in range(6):
            mask, sure = store.mask(row), store.mask(row, "confidence")
            if row in (1, 3):
                assert (mask == IGNORE).all()
                assert not sure.any()
            else:
                assert (mask == plain.mask(row)).all()
                assert (sure == plain.mask(row, "confidence")).all()
        failures = store.folder.table(FAILURES).to_pylist()
        assert failures == [
            {"row": row, "image_id": f"i{row}", "step": "predict", "reason": "not finite"} for row in (1, 3)
        ]
        about = {one["row"]: one for one in store.folder.table(FACTS).to_pylist()}
        assert (about[1]["class_id"], about[1]["share"], about[1]["score"], about[1]["confidence"]) == (DOG, 0, 0, 0)

        state.predictions = [(training, store.folder)]
        told = quarantine_table(state).to_pylist()
        assert told == [
            {
                "image_id": f"i{row}",
                "path": f"i{row}.png",
                "stage": "predict",
                "method": training.title,
                "reason": "predict: not finite",
            }
            for row in (1, 3)
        ]

    def test_class_scores_of_an_image(self, make: Callable[..., State]) -> None:
        # Its classes are not known: background throughout would be a claim.
        scores = torch.ones(6, 2)
        scores[2, 1] = torch.nan
        store = predict(make(), segmenter(gate="scores"), scores=scores)
        assert [shown(store, row) == {IGNORE} for row in range(6)] == [False, False, True, False, False, False]
        assert [one["row"] for one in store.folder.table(FAILURES).to_pylist()] == [2]

    @pytest.mark.parametrize(("gate", "aside"), [("scores", {1}), ("labels", set()), ("none", set())])
    def test_class_scores_of_recurseed(
        self, make: Callable[..., State], images: list[Any], gate: str, aside: set[int]
    ) -> None:
        class Unsure(JointColours):
            def forward(self, images: Tensor) -> Any:
                found = super().forward(images)
                blue = images[:, 2].mean(dim=(1, 2))
                return found._replace(class_logits=torch.where(blue[:, None] > 0, torch.nan, found.class_logits))

        images[1][:, :, 2] = 200
        store = predict(make(), recurseed(gate=gate), Unsure())
        assert {row for row in range(6) if IGNORE in shown(store, row)} == aside
        assert {one["row"] for one in store.folder.table(FAILURES).to_pylist()} == aside

    def test_weights_that_overflow(self, make: Callable[..., State]) -> None:
        store = predict(make(), segmenter(), Colours(float("inf")))
        assert all((store.mask(row) == IGNORE).all() for row in range(6))
        assert store.folder.table(FAILURES).num_rows == 6


class Watched(Colours):
    """Remembers how large its images were."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sides.append(images.shape[-1])
        return super().forward(images)


class TestViews:
    def test_mirrored_images_have_mirrored_masks(self, make: Callable[..., State], images: list[Any]) -> None:
        class Leaning(Colours):
            """Sees things a little to the right of where they are."""

            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images).roll(3, dims=-1)

        images[3] = images[0][:, ::-1].copy()
        state = make()
        even, uneven = (
            predict(state, segmenter(flip=flip), Leaning(), name=f"predict-{flip}") for flip in (True, False)
        )
        assert (even.mask(0) == even.mask(3)[:, ::-1]).all()
        assert not (uneven.mask(0) == uneven.mask(3)[:, ::-1]).all()

    def test_every_scale_is_asked(self, make: Callable[..., State]) -> None:
        watched = Watched()
        store = predict(make(), segmenter(scales=[0.5, 1.0, 1.5]), watched)
        assert set(watched.sides) == {SIDE // 2, SIDE, SIDE * 3 // 2}
        assert all(shown(store, row) == {0, CAT, DOG} for row in range(6))

    def test_a_size_of_its_own(self, make: Callable[..., State]) -> None:
        watched = Watched()
        training = Segmenter.model_validate({"model": "unet", "input_size": 48, "inference": {"scales": [1.0, 1.5]}})
        store = predict(make(), training, watched)
        assert set(watched.sides) == {48, 72}
        assert [store.mask(row).shape for row in range(6)] == SIZES

    def test_a_grid_of_another_size(self, make: Callable[..., State]) -> None:
        class Coarse(Colours):
            def forward(self, images: Tensor) -> Tensor:
                return F.avg_pool2d(super().forward(images), 4)

        store = predict(make(), segmenter(), Coarse())
        assert [store.mask(row).shape for row in range(6)] == SIZES
        assert all(shown(store, row) == {0, CAT, DOG} for row in range(6))


class TestPamr:
    def test_masks_follow_the_image(self, make: Callable[..., State]) -> None:
        class Blurred(Colours):
            def forward(self, images: Tensor) -> Tensor:
                return F.interpolate(F.avg_pool2d(super().forward(images), 8), images.shape[-2:], mode="bilinear")

        state = make()
        blurred, refined = (
            predict(state, segmenter(pamr=one), Blurred(1.0), name=f"predict-{one}") for one in (False, True)
        )
        exact = predict(state, segmenter(), name="predict-exact")
        for row in (1, 4):
            wrong, left = ((one.mask(row) != exact.mask(row)).mean() for one in (blurred, refined))
            assert left < wrong

    def test_is_that_of_the_method_on_all_classes(self, make: Callable[..., State]) -> None:
        state = make()
        store = predict(state, segmenter(gate="labels", pamr=True, flip=False), Colours(0.5))
        # Of the network's own size, with one class of two: the absent one is left out, which must not show.
        pixels = torch.from_numpy(state.source().pixels(0).transpose(2, 0, 1).copy())[None] / 255
        shares = Colours(0.5)((pixels - 0.5) / 0.25).softmax(dim=1).detach()
        shares[:, DOG] = 0
        found = pamr(pixels, shares)[0]
        assert (store.mask(0) == found.argmax(0).numpy()).all()
        assert np.abs(store.mask(0, "confidence") - (255 * found.amax(0) / found.sum(0)).numpy()).max() <= 0.6

    def test_large_images_are_refined_in_tiles(
        self, make: Callable[..., State], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state, asked = make(), []
        whole = predict(state, segmenter(pamr=True), name="predict-whole")

        def watch(*given: Tensor, tile: int | None) -> Tensor:
            asked.append((max(given[0].shape[-2:]), tile))
            return pamr(*given, tile=tile)

        monkeypatch.setattr(module, "pamr", watch)
        monkeypatch.setattr(module, "TILE", 40)
        tiled = predict(state, segmenter(pamr=True), name="predict-tiled")
        assert asked == [(max(size), 40 if max(size) > 40 else None) for size in SIZES]
        assert all((whole.mask(row) == tiled.mask(row)).all() for row in range(6))


class TestLoadPredictor:
    def save(self, state: State, training: Segmenter | RecurSeed) -> tuple[Path, dict[str, Tensor]]:
        network = new_segmenter(training, own_classifier(state), 2)
        with torch.no_grad():
            for one in network.parameters():
                one.add_(0.01)
        folder = state.run.root / "segmenter"
        save_model(folder, dict(network.state_dict()), {"segmenter": training.settings}, [], 0.0)
        return folder, network.state_dict()

    @pytest.mark.parametrize("train", [segmenter, recurseed])
    def test_weights_arrive(self, make: Callable[..., State], train: Any) -> None:
        state, training = make(), train()
        folder, known = self.save(state, training)
        found = load_predictor(state, training, folder, weights_digest(folder))
        assert found.network.state_dict().keys() == known.keys()
        assert all(torch.equal(one, known[name]) for name, one in found.network.state_dict().items())
        assert not found.network.training
        assert not any(one.requires_grad for one in found.network.parameters())
        values = found(torch.zeros(2, 3, SIDE, SIDE), [0, 1])
        assert values.shape[:2] == (2, 3)

    @pytest.mark.parametrize("train", [segmenter, recurseed])
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_layout_and_precision_change_rounding_alone(
        self, make: Callable[..., State], train: Any, precision: str
    ) -> None:
        images, found = torch.rand(2, 3, SIDE, SIDE), []
        for layout, kind in ((False, "float32"), (True, precision)):
            state, training = make(runtime={"channels_last": layout}), train(precision=kind)
            folder, _ = self.save(state, training)
            found.append(load_predictor(state, training, folder, weights_digest(folder))(images, [0, 1]))
        assert found[1].dtype == torch.float32
        assert (found[0] - found[1]).abs().mean() < (0.02 if precision == "bfloat16" else 1e-5)

    def test_refuses_a_changed_file(self, make: Callable[..., State]) -> None:
        state, training = make(), segmenter()
        folder, _ = self.save(state, training)
        digest = weights_digest(folder)
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match=r"expected sha256 .*; the file changed, run `maskmill verify --repair`"):
            load_predictor(state, training, folder, digest)

    @pytest.mark.parametrize("multi_label", [True, False])
    def test_scores_are_the_classifiers(
        self, make: Callable[..., State], monkeypatch: pytest.MonkeyPatch, multi_label: bool
    ) -> None:
        state, training = make(), segmenter(gate="scores")
        folder, _ = self.save(state, training)
        logits = {0: [2.0, -1.0], 1: [0.0, 0.0], 4: [float("nan")] * 2}
        state.proposals = [(state.run.config.class_proposals[0], write_logits(state.run.root, state.index, logits))]
        monkeypatch.setattr(module, "describe", lambda _: {"multi_label": multi_label})
        found = load_predictor(state, training, folder, weights_digest(folder)).scores
        assert found is not None
        row = torch.tensor(logits[0])
        torch.testing.assert_close(found[0], row.sigmoid() if multi_label else row.softmax(0))
        assert found[4].isnan().all()
        # Not seen: no class.
        assert not found[[2, 3, 5]].any()

    def test_others_need_none(self, make: Callable[..., State]) -> None:
        state = make()
        for training in (segmenter(), segmenter(gate="labels"), recurseed(gate="scores")):
            folder, _ = self.save(state, training)
            assert load_predictor(state, training, folder, weights_digest(folder)).scores is None


def write_logits(folder: Path, index: ImageIndex, logits: dict[int, list[float]]) -> StageFolder:
    """A finished proposal that has the classifier's logits of some images."""
    made = StageFolder(folder / "propose-aaaaaaaaaaaa")
    shards = index.shards(3)
    made.begin({"shard_images": 3}, shards=len(shards), classes=index.classes, index_stage=STAGED)
    for shard in shards:
        rows = [row for row in shard.rows if row in logits]
        table = pa.table(
            {
                "row": pa.array(rows, pa.int64()),
                "logits": pa.array([logits[row] for row in rows], pa.list_(pa.float32())),
            }
        )
        made.write(shard.number, tables={LOGITS: table})
    return made
