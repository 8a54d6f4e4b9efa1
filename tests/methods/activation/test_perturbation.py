import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.activation import LogitsError, PairError, is_cam, score_cam, ss_cam
from methods.activation.observe import observe
from methods.activation.perturbation import (
    channel_maps,
    channel_scores,
    enlarged_masks,
    masked_cam,
    network_scorer,
    strongest_channels,
    weighted_channel_maps,
)

PAIRS = torch.tensor([[1, 1], [0, 4], [1, 0]])


class TestEnlargedMasks:
    def test_smoke(self) -> None:
        for masks in ("enlarged_first", "normalised_first"):
            found = enlarged_masks(torch.rand(3, 4, 5), (9, 8), masks)
            assert found.shape == (3, 9, 8)
            assert found.min() >= 0
            assert found.max() <= 1

    @pytest.mark.parametrize("masks", ["enlarged_first", "normalised_first"])
    def test_constant_map_masks_everything(self, masks: str) -> None:
        assert not enlarged_masks(torch.full((1, 2, 2), 3.0), (4, 4), masks).any()

    def test_by_hand(self) -> None:
        features = torch.tensor([[[0.0, 4.0]]])
        torch.testing.assert_close(
            enlarged_masks(features, (1, 3), "enlarged_first"), torch.tensor([[[0.0, 0.5, 1.0]]])
        )
        found = enlarged_masks(features, (1, 4), "normalised_first")
        torch.testing.assert_close(found, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))

    def test_refuses_other_masks(self) -> None:
        with pytest.raises(ValueError, match="got 'soft'"):
            enlarged_masks(torch.rand(1, 2, 2), (4, 4), "soft")


class TestStrongestChannels:
    def test_smoke(self) -> None:
        features = torch.tensor([1.0, -5.0, 3.0])[:, None, None].expand(3, 2, 2)
        assert strongest_channels(features, 2).tolist() == [1, 2]
        assert strongest_channels(features, None).tolist() == strongest_channels(features, 9).tolist() == [0, 1, 2]

    def test_refuses_none_left(self) -> None:
        with pytest.raises(ValueError, match="max_maps of at least 1, got 0"):
            strongest_channels(torch.rand(2, 2, 2), 0)


class Recorder:
    """A scorer that remembers what it was given."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.inputs: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.inputs.append(images)
        return torch.stack([images.mean((1, 2, 3)), images[:, 0, 0].amax(1)], 1)

    @property
    def sizes(self) -> list[int]:
        return [len(images) for images in self.inputs]


ROWS = torch.tensor([0, 2])
CHANNELS = torch.tensor([[0, 1, 3, 4, 6], [1, 2, 3, 5, 6]])


def scored(scorer: Recorder, **options: object) -> Tensor:
    torch.manual_seed(0)
    images, features = torch.rand(3, 3, 6, 4), torch.rand(3, 7, 3, 2)
    return channel_scores(scorer, images, features, ROWS, CHANNELS, masks="enlarged_first", **options)


class TestChannelScores:
    def test_smoke(self) -> None:
        assert scored(Recorder()).shape == (5, 2, 2)

    @given(st.integers(1, 12), st.integers(1, 12))
    @settings(max_examples=20, deadline=None)
    def test_neither_batch_nor_memory_changes_anything(self, batch: int, room: int) -> None:
        scorer = Recorder(room)
        assert torch.equal(scored(scorer, batch=batch), scored(Recorder()))
        assert max(scorer.sizes) <= min(batch, room)

    def test_equals_one_image_and_channel_at_a_time(self) -> None:
        found = scored(Recorder())
        torch.manual_seed(0)
        images, features = torch.rand(3, 3, 6, 4), torch.rand(3, 7, 3, 2)
        for place, row in enumerate(ROWS.tolist()):
            masks = enlarged_masks(features[row, CHANNELS[place]], (6, 4), "enlarged_first")
            expected = Recorder()(images[row] * masks[:, None])
            torch.testing.assert_close(found[:, place], expected)

    def test_batches_are_filled_across_images(self) -> None:
        scorer = Recorder()
        scored(scorer, batch=4)
        assert scorer.sizes == [4, 4, 2]

    def test_mean_over_changes(self) -> None:
        changes = [lambda masks, *_: 0 * masks, lambda masks, *_: 2 * masks]
        torch.testing.assert_close(scored(Recorder(), changes=changes, batch=3), scored(Recorder()))

    def test_change_knows_row_and_channel(self) -> None:
        seen = []

        def change(masks: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
            seen.extend(zip(rows.tolist(), channels.tolist(), strict=True))
            return masks

        scored(Recorder(), changes=[change], batch=3)
        expected = {
            (row, channel) for row, own in zip(ROWS.tolist(), CHANNELS.tolist(), strict=True) for channel in own
        }
        assert set(seen) == expected
        assert len(seen) == len(expected)

    @pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
    def test_memory_format_and_dtype_of_the_images(self, layout: torch.memory_format) -> None:
        scorer, images = Recorder(), torch.rand(2, 3, 6, 6).bfloat16().to(memory_format=layout)
        features = torch.rand(2, 4, 3, 3)
        found = channel_scores(
            scorer, images, features, ROWS[:1], torch.tensor([[0, 1, 2]]), masks="enlarged_first", batch=2
        )
        assert all(inputs.is_contiguous(memory_format=layout) for inputs in scorer.inputs)
        assert {inputs.dtype for inputs in scorer.inputs} == {torch.bfloat16}
        assert found.dtype == torch.float32

    def test_images_stay_as_they_are(self) -> None:
        images = torch.ones(1, 3, 4, 4)
        channel_scores(
            Recorder(), images, torch.rand(1, 2, 2, 2), ROWS[:1], torch.tensor([[0, 1]]), masks="enlarged_first"
        )
        assert (images == 1).all()

    @pytest.mark.parametrize("options", [{"batch": 0}, {"changes": []}])
    def test_refuses_options(self, options: dict) -> None:
        with pytest.raises(ValueError, match=r"expected .* of at least 1|at least one masking"):
            scored(Recorder(), **options)

    @pytest.mark.parametrize("wrong", [lambda x: x.mean((1, 2, 3)), lambda x: x.mean((2, 3))[:1]])
    def test_refuses_scores_of_another_shape(self, wrong) -> None:
        with pytest.raises(LogitsError, match=r"expected scores \[n, K\] with n=10"):
            scored(wrong)


class TestNetworkScorer:
    def test_smoke(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        assert torch.equal(network_scorer(small_net.eval(), torch.relu)(images), small_net(images).relu())

    def test_precision_is_the_networks_alone(self, small_net: nn.Module) -> None:
        inside, scored = [], []
        small_net[4].register_forward_hook(lambda _module, _inputs, output: inside.append(output.dtype))

        def score(logits: Tensor) -> Tensor:
            scored.append((logits.dtype, torch.is_autocast_enabled("cpu")))
            return logits

        found = network_scorer(small_net, score, torch.bfloat16)(torch.rand(2, 3, 8, 8))
        assert inside == [torch.bfloat16]
        assert scored == [(torch.float32, False)]
        assert found.dtype == torch.float32

    def test_without_precision_the_callers_mode_holds(self, small_net: nn.Module) -> None:
        inside = []
        small_net[4].register_forward_hook(lambda _module, _inputs, output: inside.append(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            network_scorer(small_net)(torch.rand(2, 3, 8, 8))
        assert inside == [torch.bfloat16]

    def test_refuses_integers(self, small_net: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"floating precision such as torch\.bfloat16, got torch\.int8"):
            network_scorer(small_net, precision=torch.int8)


class TestChannelMaps:
    def test_by_hand(self) -> None:
        features = torch.arange(6.0).view(2, 3, 1, 1)  # Of image 1: 3, 4, 5.
        weights = torch.tensor([[[1.0, -1.0]], [[10.0, 0.0]]])
        options = {"rows": torch.tensor([1]), "channels": torch.tensor([[0, 2]]), "weights": weights}
        pairs = torch.tensor([[1, 1], [1, 0]])
        assert channel_maps(features, pairs, rectify=False, **options).flatten().tolist() == [-3, 53]
        assert channel_maps(features, pairs, rectify=True, **options).flatten().tolist() == [0, 53]


class TestWeightedChannelMaps:
    def test_one_weighing_serves_all_classes_of_an_image(self, small_net: nn.Module) -> None:
        calls = []

        def weigh(features: Tensor, rows: Tensor, channels: Tensor, scores: Tensor) -> Tensor:
            calls.append((features.shape, rows.tolist(), channels.shape, scores.shape))
            assert not torch.is_grad_enabled()
            assert not small_net.training
            return torch.ones(channels.shape[1], len(rows), scores.shape[1]) * (1 + rows[:, None])

        images = torch.rand(3, 3, 8, 8)
        maps = weighted_channel_maps(small_net.train(), images, PAIRS, "3", weigh, max_maps=None, rectify=False)
        assert calls == [((3, 4, 4, 4), [0, 1], (2, 4), (3, 5))]
        assert torch.equal(maps[0], maps[2])
        assert small_net.training

    def test_max_maps_uses_the_strongest_and_logs(self, small_net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
        images = torch.rand(2, 3, 8, 8)
        with caplog.at_level(logging.INFO):
            cut = score_cam(small_net, images, PAIRS, "3", max_maps=2)
        assert "layer '3': 2 of 4 channels used" in caplog.text
        whole = score_cam(small_net, images, PAIRS, "3")
        assert not torch.equal(cut, whole)
        assert torch.equal(score_cam(small_net, images, PAIRS, "3", max_maps=4), whole)

    def test_no_pairs(self, small_net: nn.Module) -> None:
        assert score_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS[:0], "3").shape == (0, 4, 4)


class TestMaskedCam:
    @pytest.mark.parametrize("method", [score_cam, ss_cam, is_cam])
    def test_out_of_memory_halves_the_batch(
        self, small_net: nn.Module, method, caplog: pytest.LogCaptureFixture
    ) -> None:
        images = torch.rand(2, 3, 8, 8)
        expected = method(small_net, images, PAIRS, "3")

        def full(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            if len(inputs[0]) > 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

        small_net.register_forward_pre_hook(full)
        with caplog.at_level(logging.WARNING):
            found = method(small_net, images, PAIRS, "3")
        torch.testing.assert_close(found, expected)
        assert "batch of 8, going on with 4" in caplog.text
        assert "batch of 4, going on with 2" in caplog.text

    @pytest.mark.parametrize("method", [score_cam, ss_cam, is_cam])
    def test_half_precision_moves_little(self, small_net: nn.Module, method) -> None:
        images = torch.rand(2, 3, 8, 8)
        found = method(small_net, images, PAIRS, "3", precision=torch.bfloat16)
        expected = method(small_net, images, PAIRS, "3")
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.max()))

    def test_refuses_no_masking(self, small_net: nn.Module) -> None:
        with pytest.raises(ValueError, match="at least one masking"):
            masked_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", [], masks="enlarged_first")


class TestTextDrivenScore:
    """An image encoder and prompts in place of classes, as VL-Score has them."""

    @pytest.fixture
    def prompts(self) -> Tensor:
        torch.manual_seed(3)
        return nn.functional.normalize(torch.randn(7, 5), dim=1)

    @staticmethod
    def similarity(prompts: Tensor):
        return lambda embedding: nn.functional.normalize(embedding, dim=1) @ prompts.T

    def test_pairs_name_prompts(self, small_net: nn.Module, prompts: Tensor) -> None:
        images, pairs = torch.rand(2, 3, 8, 8), torch.tensor([[1, 6], [0, 2], [1, 0]])
        found = score_cam(small_net, images, pairs, "3", score=self.similarity(prompts))
        for place, (row, prompt) in enumerate(pairs.tolist()):
            alone = score_cam(
                small_net,
                images[row : row + 1],
                torch.tensor([[0, 0]]),
                "3",
                score=self.similarity(prompts[prompt : prompt + 1]),
            )
            torch.testing.assert_close(found[place], alone[0])

    def test_refuses_a_prompt_that_is_not_there(self, small_net: nn.Module, prompts: Tensor) -> None:
        with pytest.raises(PairError, match=r"class is outside of 0\.\.6"):
            score_cam(small_net, torch.rand(1, 3, 8, 8), torch.tensor([[0, 7]]), "3", score=self.similarity(prompts))

    def test_weights_of_its_own(self, small_net: nn.Module, prompts: Tensor) -> None:
        # Only channels that score above a blank image count, which one set of passes tells for every prompt.
        images, pairs, rows = torch.rand(2, 3, 8, 8), torch.tensor([[0, 6], [1, 2]]), torch.tensor([0, 1])
        scorer = network_scorer(small_net.eval(), self.similarity(prompts))
        with torch.no_grad():
            features = observe(small_net, images, pairs, ["3"], self.similarity(prompts))[0]["3"]
            channels = torch.stack([strongest_channels(one, 3) for one in features])
            scores = channel_scores(
                scorer, images, features, rows, channels, masks="enlarged_first", epsilon=1e-7, batch=4
            )
            blank = scorer(torch.zeros_like(images))
            weights = scores.masked_fill(scores <= blank, -torch.inf).softmax(0).nan_to_num()
            maps = channel_maps(features, pairs, rows, channels, weights, rectify=True)
        assert scores.shape == (3, 2, 7)
        assert maps.shape == (2, 4, 4)
        assert torch.isfinite(maps).all()
