from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import layer_cam, truncate

STAGES = ["S3", "S4", "S5"]


class TestLayerCam:
    def test_smoke(self) -> None:
        assert layer_cam(torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5)).shape == (2, 4, 5)

    @pytest.mark.parametrize("stage", STAGES)
    def test_golden(self, cam_case, close: Callable[..., None], stage: str) -> None:
        close(layer_cam(*cam_case.at(stage)), cam_case.arrays[f"raw_LayerCAM_{stage}"], 1e-5)

    @given(st.integers(0, 2**31))
    @settings(max_examples=20, deadline=None)
    def test_truncation_at_zero_changes_nothing(self, seed: int) -> None:
        torch.manual_seed(seed)
        activations, gradients = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
        assert torch.equal(layer_cam(activations, truncate(gradients, 0)), layer_cam(activations, gradients))

    def test_signed_activations(self) -> None:
        activations, gradients = torch.tensor([[[[-2.0]]]]), torch.tensor([[[[3.0]]]])
        assert layer_cam(activations, gradients).item() == 0
        assert layer_cam(activations, gradients, rectify=False).item() == -6

    def test_leaves_its_inputs_alone(self) -> None:
        activations, gradients = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
        before = gradients.clone()
        layer_cam(activations, gradients)
        assert torch.equal(gradients, before)

    def test_shows_nan(self) -> None:
        gradients = torch.rand(2, 3, 2, 2)
        gradients[1, 0, 1, 1] = float("nan")
        assert layer_cam(torch.rand(2, 3, 2, 2), gradients).isnan().nonzero().tolist() == [[1, 1, 1]]

    def test_refuses_three_dimensions(self) -> None:
        with pytest.raises(ValueError, match=r"\[P, C, h, w\], got \(3, 2, 2\)"):
            layer_cam(torch.rand(3, 2, 2), torch.rand(3, 2, 2))
