from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import class_activation_map


class TestClassActivationMap:
    def test_smoke(self) -> None:
        assert class_activation_map(torch.rand(2, 3, 4, 5), torch.rand(2, 3)).shape == (2, 4, 5)

    def test_golden(self, cam_case, close: Callable[..., None]) -> None:
        if "CAM_raw_S5" not in cam_case.arrays:
            assert not cam_case.model.pooled
            return
        rows = cam_case.model.fc.weight.detach()[cam_case.pairs[:, 1]]
        close(class_activation_map(cam_case.at("S5")[0], rows), cam_case.arrays["CAM_raw_S5"], 1e-5)

    @given(st.integers(0, 2**31))
    @settings(max_examples=20, deadline=None)
    def test_mean_is_the_logit(self, seed: int) -> None:
        torch.manual_seed(seed)
        activations, weights = torch.rand(2, 3, 4, 5), torch.randn(2, 3)
        logits = (activations.mean((2, 3)) * weights).sum(1)
        torch.testing.assert_close(class_activation_map(activations, weights).mean((1, 2)), logits)

    def test_rectify(self) -> None:
        activations, weights = torch.ones(1, 1, 1, 1), torch.tensor([[-2.0]])
        assert class_activation_map(activations, weights).item() == -2
        assert class_activation_map(activations, weights, rectify=True).item() == 0

    def test_refuses_a_head_with_other_inputs(self) -> None:
        with pytest.raises(ValueError, match=r"got \(2, 3, 2, 2\) and \(2, 12\); CAM needs a mean over space"):
            class_activation_map(torch.rand(2, 3, 2, 2), torch.rand(2, 12))
