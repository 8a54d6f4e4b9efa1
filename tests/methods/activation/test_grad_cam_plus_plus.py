from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import grad_cam_plus_plus

STAGES = ["S3", "S4", "S5"]


class TestGradCamPlusPlus:
    def test_smoke(self) -> None:
        assert grad_cam_plus_plus(torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5)).shape == (2, 4, 5)

    @pytest.mark.parametrize("stage", STAGES)
    def test_golden(self, cam_case, close: Callable[..., None], stage: str) -> None:
        found = grad_cam_plus_plus(*cam_case.at(stage), rectify=False)
        close(found, cam_case.arrays[f"raw_GradCAMpp_{stage}"], 1e-5)

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
