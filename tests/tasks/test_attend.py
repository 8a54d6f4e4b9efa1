"""Attention of every image as it is stored and read again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from configs import RunConfig
from methods.activation.halving import OneRowMemoryError
from methods.networks import build_vit
from methods.proposals import cls_attention, token_attention
from storage.stages import FACTS, StageFolder
from tasks.attend import (
    ATTENTION,
    BLOCKS,
    MEAN,
    AttendWork,
    AttentionMaps,
    AttentionPlaces,
    attention_grid,
    attention_maps,
    begin_attention,
)
from tasks.images import ImageSource, probe_images, to_input
from tests.tasks.conftest import Pictures
from tests.tasks.stores import STAGED

CPU = torch.device("cpu")
SIDE, PATCH, HEADS = 48, 16, 3
SHARD = 3


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    made = build_vit("vit_mini_patch16", input_size=SIDE)
    # Weights as they are drawn attend everywhere alike; these have something to say.
    for block in made.blocks:
        block.attn.qkv.weight.data *= 20  # type: ignore[union-attr, operator]
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.model_validate(
        {
            "dataset": {"format": "voc", "root": "."},
            "transformer": {"backbone": "vit_mini_patch16", "weights": "vit.pth", "input_size": SIDE, "batch_size": 2},
            "runtime": {"shard_images": SHARD},
        }
    )


def attend(folder: Path, config: RunConfig, pictures: Pictures, vit: VisionTransformer, *, blocks: bool) -> AttendWork:
    """The work on a data set, not begun."""
    made = StageFolder(folder)
    probe = attention_maps(vit, probe_images(SIDE, CPU)[:1], blocks=blocks)
    begin_attention(made, {"shard_images": SHARD}, pictures.index, STAGED, probe)
    source = ImageSource(pictures.root, pictures.index, 10**6)
    assert config.transformer is not None
    return AttendWork(config, config.transformer, pictures.index, vit, source, CPU, made, blocks=blocks)


@pytest.fixture(params=[False, True], ids=["last", "blocks"])
def work(
    request: pytest.FixtureRequest, config: RunConfig, pictures: Pictures, vit: VisionTransformer, tmp_path: Path
) -> AttendWork:
    made = attend(tmp_path / "attend-1", config, pictures, vit, blocks=request.param)
    for shard in made.missing():
        made(shard)
    return made


def ready(work: AttendWork, row: int) -> Tensor:
    """One image as the transformer takes it."""
    return to_input(work.source.square(row, SIDE)[None], work.transformer.normalise, CPU)


def divided(maps: Tensor) -> Tensor:
    """Maps as they are stored."""
    return maps / maps.amax((-2, -1), keepdim=True)


class TestAttentionMaps:
    def test_mean_comes_before_the_heads(self, vit: VisionTransformer) -> None:
        images = probe_images(SIDE, CPU)
        last, every = (attention_maps(vit, images, blocks=blocks) for blocks in (False, True))
        assert last.shape == (2, 1 + HEADS, SIDE // PATCH, SIDE // PATCH)
        assert torch.equal(every[:, 1:], last)
        assert torch.equal(last[:, 1:], cls_attention(vit, images))
        assert torch.equal(last[:, 0], cls_attention(vit, images).mean(dim=1))
        assert torch.equal(every[:, 0], token_attention(vit, images))


class TestAttendWork:
    def test_smoke(self, work: AttendWork) -> None:
        folder = work.folder
        assert folder.complete
        assert attention_grid(folder) == (3, 3)
        heads = list(range(BLOCKS if work.blocks else MEAN, HEADS))
        facts = folder.table(FACTS).to_pylist()
        assert [(fact["row"], fact["head"]) for fact in facts] == [(row, head) for row in range(7) for head in heads]
        assert {fact["flag"] for fact in facts} == {""}

    def test_stored_maps_are_those_of_the_image_alone(self, work: AttendWork) -> None:
        for row in (0, 2, 3, 6):
            found = AttentionMaps(work.folder, row // SHARD)
            known = attention_maps(work.vit, ready(work, row), blocks=False)[0]
            torch.testing.assert_close(found.maps(row), divided(known), rtol=0, atol=1e-3)
            assert torch.equal(found.maps(row).amax((1, 2)), torch.ones(1 + HEADS))
            for head in range(MEAN, HEADS):
                assert torch.equal(found.head(row, head), found.maps(row)[head + 1])

    def test_ends_are_those_before_the_division(self, work: AttendWork) -> None:
        facts = {(fact["row"], fact["head"]): fact for fact in work.folder.table(FACTS).to_pylist()}
        for row in (1, 5):
            known = attention_maps(work.vit, ready(work, row), blocks=False)[0]
            for head, one in enumerate(known, MEAN):
                assert facts[row, head]["maximum"] == pytest.approx(float(one.max()), rel=1e-4)
                assert facts[row, head]["minimum"] == pytest.approx(float(one.min()), rel=1e-4)

    def test_places_are_those_of_the_facts(self, work: AttendWork) -> None:
        places = AttentionPlaces(work.folder)
        for row in range(7):
            place, shard = places.of(row, 1)
            assert shard == row // SHARD
            (stored,) = work.folder.rows(ATTENTION, shard, place, place + 1)
            known = AttentionMaps(work.folder, shard).head(row, 1)
            assert torch.equal(torch.from_numpy(stored).float(), known)

    def test_does_what_is_missing(self, work: AttendWork) -> None:
        before = work.folder.shard_table(1)
        work.folder.log.withdraw("00001")
        assert work.missing() == [1]
        work(1)
        assert work.missing() == []
        assert work.folder.shard_table(1).equals(before)

    def test_all_blocks(self, config: RunConfig, pictures: Pictures, vit: VisionTransformer, tmp_path: Path) -> None:
        work = attend(tmp_path / "a", config, pictures, vit, blocks=True)
        work(0)
        found, known = AttentionMaps(work.folder, 0).head(1, BLOCKS), token_attention(vit, ready(work, 1))[0]
        torch.testing.assert_close(found, divided(known), rtol=0, atol=1e-3)

    def test_less_memory_same_maps(
        self,
        config: RunConfig,
        pictures: Pictures,
        vit: VisionTransformer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def scarce(vit: VisionTransformer, images: Tensor, **options: Any) -> Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return attention_maps(vit, images, **options)

        first, second = (attend(tmp_path / name, config, pictures, vit, blocks=False) for name in "ab")
        first(0)
        monkeypatch.setattr("tasks.attend.attention_maps", scarce)
        second(0)
        assert second.fits == 1
        for row in range(SHARD):
            pair = [AttentionMaps(one.folder, 0).maps(row) for one in (first, second)]
            torch.testing.assert_close(pair[0], pair[1], rtol=0, atol=1e-3)


class TestRefusals:
    @pytest.mark.parametrize("head", [HEADS, 12])
    def test_refuses_a_head_that_is_not_there(
        self, head: int, config: RunConfig, pictures: Pictures, vit: VisionTransformer, tmp_path: Path
    ) -> None:
        work = attend(tmp_path / "a", config, pictures, vit, blocks=False)
        work(0)
        with pytest.raises(ValueError, match=rf"proposals: head: expected mean or 0 to 2, saw {head}"):
            AttentionMaps(work.folder, 0).head(0, head)

    def test_one_image_that_does_not_fit(
        self,
        config: RunConfig,
        pictures: Pictures,
        vit: VisionTransformer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(*_: Any, **__: Any) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        work = attend(tmp_path / "a", config, pictures, vit, blocks=False)
        monkeypatch.setattr("tasks.attend.attention_maps", full)
        with pytest.raises(OneRowMemoryError):
            work(0)
        assert work.missing() == [0, 1, 2]
