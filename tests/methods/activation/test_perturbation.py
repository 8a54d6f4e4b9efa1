import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.activation import score_cam
from methods.activation.perturbation import (
    enlarged_masks,
    masked_batches,
    masked_cam,
    score_batches,
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


class TestMaskedBatches:
    @given(st.integers(1, 9))
    @settings(max_examples=9, deadline=None)
    def test_batch_size_changes_nothing(self, batch: int) -> None:
        torch.manual_seed(0)
        image, features = torch.rand(3, 6, 6), torch.rand(7, 3, 3)
        parts = list(masked_batches(image, features, "enlarged_first", batch))
        assert max(len(part) for part in parts) <= batch
        whole = image * enlarged_masks(features, (6, 6), "enlarged_first")[:, None]
        assert torch.equal(torch.cat(parts), whole)

    def test_any_network_scores(self) -> None:
        def score(inputs: Tensor) -> Tensor:
            return inputs.mean((2, 3)).half()

        found = score_batches(score, masked_batches(torch.ones(3, 4, 4), torch.rand(5, 2, 2), "enlarged_first", 2))
        assert found.shape == (5, 3)
        assert found.dtype == torch.float32

    def test_refuses_empty_batch(self) -> None:
        with pytest.raises(ValueError, match="batch of at least 1, got 0"):
            list(masked_batches(torch.ones(3, 4, 4), torch.rand(5, 2, 2), "enlarged_first", 0))


class TestWeightedChannelMaps:
    def test_one_weighing_serves_all_classes_of_an_image(self, small_net: nn.Module) -> None:
        rows = []

        def weigh(row: int, _used: Tensor, channels: Tensor, logits: Tensor) -> Tensor:
            rows.append(row)
            assert not torch.is_grad_enabled()
            assert not small_net.training
            return torch.ones(len(channels), len(logits)) * (1 + row)

        images = torch.rand(2, 3, 8, 8)
        maps = weighted_channel_maps(small_net.train(), images, PAIRS, "3", weigh, max_maps=None, rectify=False)
        assert sorted(rows) == [0, 1]
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

    def test_refuses_no_masking(self, small_net: nn.Module) -> None:
        with pytest.raises(ValueError, match="at least one masking"):
            masked_cam(
                small_net,
                torch.rand(2, 3, 8, 8),
                PAIRS,
                "3",
                lambda *_: iter(()),
                score=lambda logits: logits,
                max_maps=None,
                rectify=True,
            )
