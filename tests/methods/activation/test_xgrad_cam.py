from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import grad_cam, xgrad_cam

STAGES = ["S3", "S4", "S5"]


class TestXGradCam:
    def test_smoke(self) -> None:
        assert xgrad_cam(torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5)).shape == (2, 4, 5)

    @pytest.mark.parametrize("stage", STAGES)
    def test_golden(self, cam_case, close: Callable[..., None], stage: str) -> None:
        close(xgrad_cam(*cam_case.at(stage), rectify=False), cam_case.arrays[f"raw_XGradCAM_{stage}"], 1e-5)

    @given(st.integers(0, 2**31))
    @settings(max_examples=20, deadline=None)
    def test_equals_grad_cam_where_gradients_are_flat(self, seed: int) -> None:
        torch.manual_seed(seed)
        activations, gradients = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 1, 1).expand(2, 3, 4, 4)
        torch.testing.assert_close(xgrad_cam(activations, gradients), grad_cam(activations, gradients))

    def test_dead_channel_weighs_nothing(self) -> None:
        activations = torch.zeros(1, 1, 2, 2)
        assert not xgrad_cam(activations, torch.rand(1, 1, 2, 2)).any()

    def test_shows_nan(self) -> None:
        gradients = torch.rand(2, 3, 2, 2)
        gradients[1, 0, 1, 1] = float("nan")
        assert xgrad_cam(torch.rand(2, 3, 2, 2), gradients).isnan().flatten(1).all(1).tolist() == [False, True]

    def test_refuses_unlike_shapes(self) -> None:
        with pytest.raises(ValueError, match="of one shape"):
            xgrad_cam(torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 3))
