import csv
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate

from configs.transformer import Transformer
from methods.activation import min_max
from methods.networks import build_vit
from methods.proposals import cls_attention
from methods.refinement.otsu import otsu_masks
from storage.checkpoints import load_checkpoint
from storage.index import SCHEMA, ImageIndex, build_index
from tasks.engine import Batch, Moment, TrainingError
from tasks.images import ImageSource, to_input
from tasks.pretrain import DistillationLearner, cosine, crop_batches, fit_transformer

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 3,
    "warmup_epochs": 1,
    "learning_rate": 1e-3,
    "local_crops": 2,
    "local_size": 16,
    "outputs": 32,
    "hidden": 16,
    "bottleneck": 8,
    "teacher_momentum": 0.9,
}
FAST: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 16,
    "warmup_epochs": 1,
    "learning_rate": 5e-4,
    "vertical_flip": True,
    "global_size": 96,
    "global_scale": [0.2, 0.7],
    "local_crops": 2,
    "local_size": 48,
    "local_scale": [0.06, 0.25],
    "grey": 0.0,
    "blur": 0.1,
    "invert": 0.5,
    "outputs": 256,
    "hidden": 256,
    "bottleneck": 64,
    "teacher_temperature": 0.025,
    "teacher_momentum": 0.99,
}
"""A few minutes on a CPU."""


class KilledError(Exception):
    pass


def quiet(*_: object) -> None:
    pass


def tiny_vit(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0)


def section(**settings: Any) -> Transformer:
    return Transformer(input_size=32, pretrain={**TINY, **settings})


def learner(**settings: Any) -> DistillationLearner:
    wanted = section(**settings).pretrain
    assert wanted is not None
    return DistillationLearner(tiny_vit(), wanted)


def same(one: VisionTransformer, other: VisionTransformer) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture
def source(pictures: Any) -> Iterator[ImageSource]:
    made = ImageSource(pictures.root, pictures.index, max_pixels=1000)
    yield made
    made.close()


class TestFitTransformer:
    def test_smoke(self, source: ImageSource, tmp_path: Path) -> None:
        vit, path, seen = tiny_vit(), tmp_path / "checkpoint.pt", []
        history = fit_transformer(
            vit, section(), [0, 1, 2, 3, 4, 6], source, CPU, path, lambda *what: seen.append(what)
        )
        assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
        assert history[0].keys() == {"epoch", "loss", "entropy", "divergence"}
        assert history[0]["loss"] == pytest.approx(history[0]["entropy"] + history[0]["divergence"])
        assert not same(vit, tiny_vit())
        assert path.exists()

    @pytest.mark.parametrize("after", [1, 2, 3])
    def test_a_killed_training_ends_with_the_same_weights(
        self, source: ImageSource, tmp_path: Path, after: int
    ) -> None:
        def killed(done: int, *_: object) -> None:
            if done == after:
                raise KilledError

        rows, whole, resumed = list(range(7)), tiny_vit(), tiny_vit()
        expected = fit_transformer(whole, section(), rows, source, CPU, tmp_path / "whole.pt", quiet)
        path = tmp_path / "checkpoint.pt"
        with pytest.raises(KilledError):
            fit_transformer(tiny_vit(), section(), rows, source, CPU, path, killed)
        torch.rand(3)
        assert fit_transformer(resumed, section(), rows, source, CPU, path, quiet) == expected
        assert same(resumed, whole)

    def test_the_checkpoint_holds_student_teacher_and_centre(self, source: ImageSource, tmp_path: Path) -> None:
        path, vit, states = tmp_path / "checkpoint.pt", tiny_vit(), []
        fit_transformer(
            vit, section(), list(range(7)), source, CPU, path, lambda *_: states.append(load_checkpoint(path))
        )
        module = states[-1]["module"]
        assert {name.split(".")[0] for name in module} == {"student", "teacher", "centre"}
        assert {name.split(".")[1] for name in module if "." in name} == {"vit", "head"}
        assert module["centre"].abs().sum() > 0
        for name, value in vit.state_dict().items():
            assert torch.equal(module[f"teacher.vit.{name}"], value)
            assert not torch.equal(module[f"student.vit.{name}"], value) or "qkv.bias" in name

    def test_another_seed_trains_otherwise(self, source: ImageSource, tmp_path: Path) -> None:
        made = [tiny_vit() for _ in range(3)]
        for number, (vit, seed) in enumerate(zip(made, (0, 0, 1))):
            config = section(seed=seed, epochs=1, warmup_epochs=0)
            fit_transformer(vit, config, list(range(7)), source, CPU, tmp_path / f"{number}.pt", quiet)
        assert same(made[0], made[1])
        assert not same(made[0], made[2])

    def test_a_loss_that_is_not_finite_is_refused(self, source: ImageSource, tmp_path: Path) -> None:
        vit = tiny_vit()
        with torch.no_grad():
            vit.norm.weight[0] = math.nan
        with pytest.raises(
            TrainingError, match=r"epoch 1, step 1: .*divergence nan.*transformer\.pretrain\.learning_rate"
        ):
            fit_transformer(vit, section(), list(range(7)), source, CPU, tmp_path / "checkpoint.pt", quiet)

    def test_refuses_sides_that_are_no_multiples(self, source: ImageSource, tmp_path: Path) -> None:
        for settings, told in (
            ({"local_size": 20}, "local_size.*saw 20; use 16"),
            ({"global_size": 30}, "global_size.*use 32"),
        ):
            with pytest.raises(ValueError, match=told):
                fit_transformer(tiny_vit(), section(**settings), [0, 1], source, CPU, tmp_path / "c.pt", quiet)

    def test_refuses_a_single_image(self, source: ImageSource, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="two images or more in train, saw 1"):
            fit_transformer(tiny_vit(), section(), [3], source, CPU, tmp_path / "c.pt", quiet)

    @pytest.mark.parametrize("name", ["global_scale", "local_scale"])
    def test_ranges_are_lists_as_in_yaml(self, name: str) -> None:
        assert getattr(section(**{name: [0.2, 0.5]}).pretrain, name) == [0.2, 0.5]
        for wrong, told in (([0.5, 0.2], "smaller share first"), ([0.0, 0.2], "greater than 0"), ([0.5], "at least 2")):
            with pytest.raises(ValueError, match=told):
                section(**{name: wrong})

    def test_refuses_a_section_without_pretraining(self, source: ImageSource, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="expected a pretrain section"):
            fit_transformer(tiny_vit(), Transformer(weights="file"), [0, 1], source, CPU, tmp_path / "c.pt", quiet)


class TestCollapse:
    @pytest.fixture
    def patterns(self) -> Tensor:
        """Images of stripes: eight kinds, four of each."""
        ramp = torch.arange(32.0)
        kinds = [
            torch.sin(ramp * wave)[axes].expand(3, 32, 32)
            for wave in (0.3, 0.6, 1.2, 2.4)
            for axes in ((None, None), (None, slice(None), None))
        ]
        return torch.stack(kinds).repeat(4, 1, 1, 1)

    def terms(self, patterns: Tensor, **settings: Any) -> list[float]:
        made = learner(**settings)
        optimiser = torch.optim.AdamW(made.groups(), lr=2e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(80):
            noise = 0.3 * torch.randn(2, *patterns.shape, generator=generator)
            moment = Moment(epoch=step // 10, step=step % 10, total=step, progress=step / 80)
            terms = made({"large": patterns + noise}, moment)
            optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            made.about_to_step(optimiser, moment)
            optimiser.step()
            made.stepped(moment)
        return [terms[name].item() for name in ("entropy", "divergence")]

    def test_the_teacher_neither_says_one_thing_nor_all(self, patterns: Tensor) -> None:
        entropy, divergence = self.terms(patterns)
        assert 0.05 * math.log(32) < entropy < 0.95 * math.log(32)
        assert divergence > 0.01

    def test_without_sharpening_all_answers_become_alike(self, patterns: Tensor) -> None:
        entropy, divergence = self.terms(patterns, teacher_temperature=0.5)
        assert entropy > 0.99 * math.log(32)
        assert divergence < 0.01


class TestLearner:
    def test_biases_and_norms_do_not_decay(self) -> None:
        made = learner()
        decayed, kept = (group["params"] for group in made.groups())
        assert {one.ndim for one in kept} == {1}
        assert min(one.ndim for one in decayed) == 2
        assert len(decayed) + len(kept) == len(list(made.pair.student.parameters()))

    def test_before_a_step(self) -> None:
        made = learner(weight_decay=0.1, weight_decay_end=0.3, clip_gradient=2.0, freeze_last_epochs=2)
        optimiser = torch.optim.AdamW(made.groups())
        for epoch, frozen in ((1, True), (2, False)):
            for one in made.pair.student.parameters():
                one.grad = torch.ones_like(one)
            made.about_to_step(optimiser, Moment(epoch, 0, 9, 0.5))
            assert (made.pair.student.head.last.grad is None) is frozen
        norms = [one.grad.norm().item() for one in made.pair.student.parameters() if one.grad is not None]
        assert max(norms) == pytest.approx(2, abs=1e-4)
        assert [group["weight_decay"] for group in optimiser.param_groups] == pytest.approx([0.2, 0.0])

    def test_the_teacher_follows(self) -> None:
        made = learner(teacher_momentum=0.8)
        with torch.no_grad():
            made.pair.student.head.last.fill_(1.0)
            made.pair.teacher.head.last.fill_(0.0)
        made.stepped(Moment(0, 0, 0, 0.0))
        torch.testing.assert_close(made.pair.teacher.head.last, torch.full((32, 8), 0.2))
        made.stepped(Moment(2, 0, 0, 0.5))
        torch.testing.assert_close(made.pair.teacher.head.last, torch.full((32, 8), 0.28))

    def test_the_teacher_learns_from_nothing_but_the_student(self) -> None:
        made = learner()
        sum(made({"large": torch.rand(2, 3, 3, 32, 32)}, Moment(0, 0, 0, 0.0)).values()).backward()  # type: ignore[union-attr]
        assert all(one.grad is None for one in made.pair.teacher.parameters())
        assert all(one.grad is not None for one in made.pair.student.parameters())

    def test_cosine(self) -> None:
        assert [cosine(0.04, 0.4, part) for part in (0, 0.5, 1)] == pytest.approx([0.04, 0.22, 0.4])


class TestCropBatches:
    def batches(self, source: ImageSource, rows: int = 7, **settings: Any) -> list[Batch]:
        config = section(**settings)
        assert config.pretrain is not None
        made, steps = crop_batches(source, config, config.pretrain, list(range(rows)), CPU)(0)
        found = list(made)
        assert len(found) == steps
        return found

    def test_views(self, source: ImageSource) -> None:
        found = self.batches(source)
        assert [tuple(one.tensors["large"].shape) for one in found] == [(2, 3, 3, 32, 32)] * 2
        assert [tuple(one.tensors["small"].shape) for one in found] == [(2, 3, 3, 16, 16)] * 2
        assert len({row for one in found for row in one.rows}) == 6

    def test_fewer_images_than_a_batch(self, source: ImageSource) -> None:
        assert [len(one.rows) for one in self.batches(source, rows=2)] == [2]

    def test_options(self, source: ImageSource) -> None:
        found = self.batches(source, local_crops=0, global_size=16)
        assert found[0].tensors.keys() == {"large"}
        assert found[0].tensors["large"].shape == (2, 3, 3, 16, 16)

    def test_values_are_those_of_the_network(self, source: ImageSource) -> None:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        for one in self.batches(source):
            views = one.tensors["large"] * std + mean
            assert views.min() >= -1e-5
            assert views.max() <= 1 + 1e-5


@pytest.mark.slow
class TestRealImages:
    """Steel surfaces: a few minutes of training against random weights."""

    @pytest.fixture
    def steel(self, shared: Path) -> Iterator[tuple[ImageSource, list[int], dict[int, Tensor]]]:
        """Images, rows to train on, and foregrounds of some of the others by row."""
        # Two threads on two busy cores wait for each other: several times slower than one.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        root = shared / "data" / "neu_seg"
        with (root / "splits.csv").open() as file:
            records = list(csv.DictReader(file))
        source = ImageSource(root, neu_index(root, records), max_pixels=10**6)
        train = [row for row, one in enumerate(records) if one["split"] == "train"]
        held = [row for row, one in enumerate(records) if one["split"] == "val"]
        masks = {row: torch.from_numpy(np.array(Image.open(root / records[row]["mask"]))) > 0 for row in held}
        yield source, train, masks
        source.close()
        torch.set_num_threads(threads)

    def test_attention_beats_that_of_random_weights(
        self, steel: tuple[ImageSource, list[int], dict[int, Tensor]], tmp_path: Path
    ) -> None:
        source, train, masks = steel
        config = Transformer(backbone="vit_mini_patch16", input_size=192, pretrain=FAST)
        torch.manual_seed(0)
        vit = build_vit(config.backbone, input_size=config.input_size)
        before = best_overlap(vit, config, source, masks)
        history = fit_transformer(vit, config, train, source, CPU, tmp_path / "checkpoint.pt", quiet)
        assert history[-1]["divergence"] > 0.02
        after = best_overlap(vit.eval(), config, source, masks)
        assert after > before + 0.05, f"trained {after:.3f}, random {before:.3f}"


def best_overlap(vit: VisionTransformer, config: Transformer, source: ImageSource, masks: dict[int, Tensor]) -> float:
    """Intersection over union of foreground and Otsu's mask over all images, of the best head."""
    shared = united = torch.zeros(())
    for group, images in source.batches(list(masks), config.input_size, 16):
        with torch.no_grad():
            attention = cls_attention(vit, to_input(images, config.normalise, CPU))
        truth = torch.stack([masks[row] for row in group])[:, None]
        maps = interpolate(attention, truth.shape[2:], mode="bilinear", align_corners=False)
        found = otsu_masks(min_max(maps.flatten(0, 1))).reshape(maps.shape).bool()
        shared = shared + (found & truth).sum(dim=(0, 2, 3))
        united = united + (found | truth).sum(dim=(0, 2, 3))
    return float((shared / united).max())


def neu_index(root: Path, records: list[dict[str, str]]) -> ImageIndex:
    """An index of images without labels."""
    rows = []
    for one in records:
        data = (root / one["image"]).read_bytes()
        facts = {"image_id": one["image"], "path": one["image"], "split": one["split"], "width": 200, "height": 200}
        state = {"mode": "RGB", "labels": [], "status": "ok", "reason": "", "orientation": 1, "bytes": len(data)}
        rows.append({**facts, **state, "sha256": hashlib.sha256(data).hexdigest()})
    return build_index(pa.Table.from_pylist(rows, pa.schema(list(SCHEMA)[:12])), ["steel"])
