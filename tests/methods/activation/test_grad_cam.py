from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import grad_cam

STAGES = ["S3", "S4", "S5"]


class TestGradCam:
    def test_smoke(self) -> None:
        maps = grad_cam(torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5))
        assert maps.shape == (2, 4, 5)
        assert maps.dtype == torch.float32

    @pytest.mark.parametrize("stage", STAGES)
    def test_golden(self, cam_case, close: Callable[..., None], stage: str) -> None:
        close(grad_cam(*cam_case.at(stage), rectify=False), cam_case.arrays[f"raw_GradCAM_{stage}"], 1e-5)

    def test_by_hand(self) -> None:
        activations = torch.tensor([[[[1.0, 0.0]], [[3.0, 2.0]]]])
        gradients = torch.tensor([[[[4.0, 0.0]], [[-2.0, 0.0]]]])
        assert grad_cam(activations, gradients, rectify=False).tolist() == [[[-1.0, -2.0]]]
        assert grad_cam(activations, gradients).tolist() == [[[0.0, 0.0]]]

    @given(st.integers(0, 2**31), st.floats(0.1, 10))
    @settings(max_examples=20, deadline=None)
    def test_scales_with_activations_and_ignores_channel_order(self, seed: int, factor: float) -> None:
        torch.manual_seed(seed)
        activations, gradients, order = torch.rand(2, 5, 3, 3), torch.randn(2, 5, 3, 3), torch.randperm(5)
        maps = grad_cam(activations, gradients)
        torch.testing.assert_close(grad_cam(activations[:, order], gradients[:, order]), maps)
        torch.testing.assert_close(grad_cam(factor * activations, gradients), factor * maps)

    def test_half_precision_sums_in_float32(self) -> None:
        maps = grad_cam(torch.ones(1, 4096, 1, 1).bfloat16(), torch.ones(1, 4096, 1, 1).bfloat16())
        assert maps.dtype == torch.float32
        assert maps.item() == 4096

    def test_shows_nan(self) -> None:
        activations = torch.rand(2, 3, 2, 2)
        activations[0, 1, 0, 0] = float("nan")
        maps = grad_cam(activations, torch.rand(2, 3, 2, 2))
        assert maps.isnan().nonzero().tolist() == [[0, 0, 0]]

    def test_refuses_unlike_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"got \(1, 3, 2, 2\) and \(2, 3, 2, 2\)"):
            grad_cam(torch.rand(1, 3, 2, 2), torch.rand(2, 3, 2, 2))
        with pytest.raises(ValueError, match="floating"):
            grad_cam(torch.ones(1, 1, 1, 1, dtype=torch.int64), torch.rand(1, 1, 1, 1))
