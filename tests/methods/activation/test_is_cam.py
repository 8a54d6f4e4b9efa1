from collections.abc import Callable

import pytest
import torch
from torch import nn

from methods.activation import is_cam, score_cam

PAIRS = torch.tensor([[1, 1], [0, 4], [1, 0]])


class TestIsCam:
    def test_smoke(self, small_net: nn.Module) -> None:
        assert is_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", samples=2).shape == (3, 4, 4)

    def test_golden(self, cam_case, close: Callable[..., None]) -> None:
        samples = cam_case.meta["iscam_samples"]
        found = is_cam(cam_case.model, cam_case.images, cam_case.pairs, "features.14", samples=samples)
        close(found, cam_case.arrays["torchcam_ISCAM_raw_S5"], 1e-4)

    def test_one_step_is_score_cam(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        found = is_cam(small_net, images, PAIRS, "3", samples=1)
        torch.testing.assert_close(found, score_cam(small_net, images, PAIRS, "3", masks="normalised_first"))

    def test_refuses_no_steps(self, small_net: nn.Module) -> None:
        with pytest.raises(ValueError, match="samples >= 1, got 0"):
            is_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", samples=0)
