from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import fuse, grad_cam, layer_cam, min_max, truncate


def by_definition(gradients: torch.Tensor, percentile: int, population: str) -> torch.Tensor:
    """One population at a time, in Python integers."""
    flat = gradients.flatten(2) if population == "channel" else gradients.flatten(1)[:, None]
    result = torch.zeros_like(flat)
    for row in np.ndindex(*flat.shape[:2]):
        positive = sorted(value for value in flat[row].tolist() if value > 0)
        if positive:
            threshold = positive[-(-percentile * (len(positive) - 1) // 100)]
            result[row] = torch.where(flat[row] >= threshold, flat[row], 0)
    return result.view(gradients.shape)


class TestTruncate:
    def test_smoke(self) -> None:
        assert truncate(torch.randn(2, 3, 4, 5), 20).shape == (2, 3, 4, 5)

    @pytest.mark.parametrize("population", ["channel", "layer"])
    @pytest.mark.parametrize("percentile", [0, 20, 50, 90])
    def test_golden_kept_set(self, cam_case, close: Callable[..., None], percentile: int, population: str) -> None:
        activations, gradients = cam_case.at("S5")
        found = truncate(gradients, percentile, population)
        threshold = cam_case.arrays[f"lt_thr_S5_d{percentile}_{population}"][..., None, None]
        # A threshold of the golden is NaN where nothing is positive: the comparison then keeps nothing, as it should.
        kept = (gradients > 0) & (gradients.double() >= threshold * (1 - 1e-6))
        assert torch.equal(found, torch.where(kept, gradients, 0))
        expected = cam_case.arrays[f"lt_GradCAM_raw_S5_d{percentile}_{population}"]
        close(grad_cam(activations, found, rectify=False), expected, 1e-5)

    @pytest.mark.parametrize(
        ("case", "stages", "percentile", "population", "rectify"),
        [
            ("GradCAM_l5_d0_channel", 5, 0, "channel", True),
            ("GradCAM_l5_d0_layer", 5, 0, "layer", True),
            ("GradCAM_l5_d20_channel", 5, 20, "channel", True),
            ("GradCAM_l5_d20_layer", 5, 20, "layer", True),
            ("GradCAM_l345_d20", 3, 20, "channel", True),
            ("GradCAM_l5_norelu_d20", 5, 20, "channel", False),
            ("LayerCAM_l5_d0", 5, 0, "channel", True),
            ("LayerCAM_l5_d20", 5, 20, "channel", True),
        ],
    )
    def test_golden_maps(
        self, cam_case, case: str, stages: int, percentile: int, population: str, rectify: bool
    ) -> None:
        expected = cam_case.arrays[f"lt_{case}_minmax"]
        method = grad_cam if case.startswith("Grad") else layer_cam
        maps = []
        for stage in range(6 - stages, 6):
            activations, gradients = cam_case.at(f"S{stage}")
            maps.append(method(activations, truncate(gradients, percentile, population), rectify=rectify))
        found = min_max(fuse(maps, tuple(expected.shape[1:])))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    @given(st.integers(0, 2**31), st.integers(0, 100), st.sampled_from(["channel", "layer"]))
    @settings(max_examples=40, deadline=None)
    def test_equals_the_definition(self, seed: int, percentile: int, population: str) -> None:
        torch.manual_seed(seed)
        # Rounded values make ties.
        gradients = (torch.randn(2, 3, 4, 4) * 4).round() / 4
        gradients[0, 0] = -gradients[0, 0].abs()
        assert torch.equal(
            truncate(gradients, percentile, population), by_definition(gradients, percentile, population)
        )

    @given(st.integers(0, 2**31))
    @settings(max_examples=15, deadline=None)
    def test_kept_sets_shrink(self, seed: int) -> None:
        torch.manual_seed(seed)
        gradients = torch.randn(2, 3, 5, 5)
        kept = [truncate(gradients, percentile) > 0 for percentile in range(0, 101, 20)]
        assert torch.equal(kept[0], gradients > 0)
        assert all((wider | narrower).equal(wider) for wider, narrower in pairwise(kept))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_dtypes(self, dtype: torch.dtype) -> None:
        gradients = (torch.randn(2, 3, 4, 4) * 4).round().div(4).to(dtype)
        found = truncate(gradients, 30)
        assert found.dtype == dtype
        assert torch.equal(found, by_definition(gradients, 30, "channel"))

    def test_leaves_its_input_alone_in_any_memory_format(self) -> None:
        gradients = torch.randn(2, 3, 4, 4)
        before = gradients.clone()
        last = truncate(gradients.to(memory_format=torch.channels_last), 40)
        assert torch.equal(truncate(gradients, 40), last)
        assert torch.equal(gradients, before)

    def test_equal_gradients_are_all_kept(self) -> None:
        assert torch.equal(truncate(torch.full((1, 2, 3, 3), 0.5), 90), torch.full((1, 2, 3, 3), 0.5))

    @pytest.mark.parametrize("percentile", [0, 50])
    def test_shows_nan(self, percentile: int) -> None:
        gradients = torch.tensor([[[[float("nan"), -1.0, 1.0, 2.0, 3.0]]]])
        found = truncate(gradients, percentile)
        assert found.isnan().sum() == 1
        assert torch.equal(found[..., 1:], truncate(gradients[..., 1:], percentile))

    @pytest.mark.parametrize("percentile", [-1, 101, 20.0, True, "20"])
    def test_refuses_percentile(self, percentile: object) -> None:
        with pytest.raises(ValueError, match="percentile as an integer"):
            truncate(torch.rand(1, 1, 2, 2), percentile)

    def test_refuses_population_and_shape(self) -> None:
        with pytest.raises(ValueError, match="got 'image'"):
            truncate(torch.rand(1, 1, 2, 2), 20, "image")
        with pytest.raises(ValueError, match=r"\[P, C, h, w\], got torch.float32 \(1, 2, 2\)"):
            truncate(torch.rand(1, 2, 2), 20)
