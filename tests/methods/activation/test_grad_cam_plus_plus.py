from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import fuse, grad_cam_plus_plus

STAGES = ["S3", "S4", "S5"]


class TestGradCamPlusPlus:
    def test_smoke(self) -> None:
        assert grad_cam_plus_plus(torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5)).shape == (2, 4, 5)

    @pytest.mark.parametrize("stage", STAGES)
    def test_golden_raw(self, cam_case, close: Callable[..., None], stage: str) -> None:
        found = grad_cam_plus_plus(*cam_case.at(stage), rectify=False)
        close(found, cam_case.arrays[f"raw_GradCAMpp_{stage}"], 1e-5)

    @pytest.mark.parametrize("stage", STAGES)
    def test_golden_normalised(self, cam_case, stage: str) -> None:
        expected = cam_case.arrays[f"pgc_GradCAMpp_{stage}"]
        found = fuse([grad_cam_plus_plus(*cam_case.at(stage))], tuple(expected.shape[1:]), "mean_norm")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    def test_golden_mean_norm(self, cam_case) -> None:
        expected = cam_case.arrays["pgc_GradCAMpp_S345_mean"]
        maps = [grad_cam_plus_plus(*cam_case.at(stage)) for stage in STAGES]
        found = fuse(maps, tuple(expected.shape[1:]), "mean_norm")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("stage", STAGES)
    def test_golden_weights(self, cam_case, stage: str) -> None:
        # The weights read off the map: it is linear in A where the sum of A stays, so add a pixel that sums to zero.
        # In float64, for the difference of two maps.
        activations, gradients = (values.double() for values in cam_case.at(stage))
        expected = cam_case.arrays[f"pgc_GradCAMpp_weights_{stage}"]
        base = grad_cam_plus_plus(activations, gradients, rectify=False)
        for channel in range(activations.shape[1]):
            moved = activations.clone()
            moved[:, channel, 0, 0] += 1
            moved[:, channel, 1, 1] -= 1
            weight = grad_cam_plus_plus(moved, gradients, rectify=False)[:, 0, 0] - base[:, 0, 0]
            assert (weight - expected[:, channel]).abs().max() <= 1e-4 * expected.abs().max()

    @given(st.integers(0, 2**31))
    @settings(max_examples=20, deadline=None)
    def test_negative_gradients_do_not_count(self, seed: int) -> None:
        torch.manual_seed(seed)
        activations, gradients = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(
            grad_cam_plus_plus(activations, gradients), grad_cam_plus_plus(activations, gradients.clamp(min=0))
        )

    def test_by_hand(self) -> None:
        # alpha = 4 / (8 + 3 * 8), w = 2 alpha.
        found = grad_cam_plus_plus(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[2.0, 0.0]]]]))
        torch.testing.assert_close(found, torch.tensor([[[0.25, 0.5]]]))

    def test_shows_nan(self) -> None:
        gradients = torch.rand(2, 3, 2, 2)
        gradients[1, 0, 1, 1] = float("nan")
        assert grad_cam_plus_plus(torch.rand(2, 3, 2, 2), gradients).isnan().flatten(1).all(1).tolist() == [False, True]

    def test_refuses_unlike_shapes(self) -> None:
        with pytest.raises(ValueError, match="of one shape"):
            grad_cam_plus_plus(torch.rand(1, 3, 2, 2), torch.rand(1, 4, 2, 2))
