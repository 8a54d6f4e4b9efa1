from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.activation import enlarge, min_max
from methods.refinement import RECURSEED, ScgConstants, correlate_levels, scg

Golden = Callable[[str], dict[str, Any]]


def _slow(cam: Tensor, correlation: Tensor, foreground: float, background: float) -> Tensor:
    """One map, column by column."""

    def stretched(values: Tensor) -> Tensor:
        return (values - values.min()) / (values.max() - values.min() + 1e-10)

    def spread(chosen: Tensor) -> Tensor:
        columns = [stretched(correlation[:, j]) for j in chosen.nonzero().flatten()]
        return stretched(torch.stack(columns).sum(0)) if columns else torch.zeros(len(correlation))

    flat = cam.flatten()
    return stretched((spread(flat >= foreground) - spread(flat <= background)).clamp(min=0)).view(cam.shape)


class TestScg:
    @pytest.mark.parametrize("config", ["cub", "ilsvrc"])
    def test_golden_spa(self, golden: Golden, config: str) -> None:
        case = golden("scg_spa")
        about = case["_meta"]["configs"][config]
        low = torch.from_numpy(case["cam_lowres"])[:, case["_meta"]["label"]]
        image_size = tuple(case["_meta"]["image_hw"])
        at_image = enlarge(min_max(low, 1e-10), image_size)
        torch.testing.assert_close(at_image[0], torch.from_numpy(case["cam_image_res"]), rtol=0, atol=1e-6)
        cam = enlarge(at_image, low.shape[1:])  # type: ignore[arg-type]
        constants = ScgConstants(about["fosc_th"], about["sosc_th"], about["so_weight"], 1e-5, 0.1, 0.05)
        levels = [torch.from_numpy(case[f"feat{level}"]) for level in (4, 5)]
        correlation = correlate_levels(levels, constants, order=about["order"])
        found = scg(cam[None], correlation, foreground=about["fg_th"], background=about["bg_th"])
        torch.testing.assert_close(found[0, 0], torch.from_numpy(case[f"{config}_scg_featres"]), rtol=0, atol=5e-6)
        large = enlarge(found[0], image_size)[0]
        torch.testing.assert_close(large, torch.from_numpy(case[f"{config}_scg_imgres"]), rtol=0, atol=5e-6)
        boxes = []
        for threshold in case["_meta"]["box_thresholds"]:
            y, x = (torch.from_numpy(case[f"{config}_scg_imgres"]) >= threshold).nonzero(as_tuple=True)
            boxes.append([case["_meta"]["label"], int(x.min()), int(y.min()), int(x.max()), int(y.max())])
        np.testing.assert_array_equal(np.asarray(boxes), case[f"{config}_union_boxes"])

    def test_golden_recurseed(self, golden: Golden) -> None:
        case = golden("scg_recurseed")
        about = case["_meta"]
        found = scg(
            torch.from_numpy(case["cams"]),
            torch.from_numpy(case["hsc_sum"]),
            foreground=about["foreground_th"],
            background=about["background_th"],
        )
        torch.testing.assert_close(found, torch.from_numpy(case["scm"]), rtol=0, atol=5e-6)

    @given(seed=st.integers(0, 999))
    @settings(max_examples=15, deadline=None)
    def test_equal_to_the_formulas_and_to_each_alone(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        correlation = correlate_levels([torch.randn(2, 5, 3, 4, generator=generator)], RECURSEED)
        maps = min_max(torch.rand(6, 3, 4, generator=generator)).view(2, 3, 3, 4)
        found = scg(maps, correlation, foreground=0.3, background=0.05)
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        for b in range(2):
            for k in range(3):
                slow = _slow(maps[b, k], correlation[b], 0.3, 0.05)
                torch.testing.assert_close(found[b, k], slow, rtol=0, atol=2e-5)

    def test_permutation_of_places(self) -> None:
        correlation = correlate_levels([torch.randn(1, 5, 1, 8)], RECURSEED)
        maps, order = torch.rand(1, 2, 1, 8), torch.randperm(8)
        found = scg(maps, correlation, foreground=0.3, background=0.05)
        moved = scg(maps[..., order], correlation[:, order][:, :, order], foreground=0.3, background=0.05)
        torch.testing.assert_close(moved, found[..., order], rtol=0, atol=1e-5)

    def test_no_sure_place_gives_zeros(self) -> None:
        correlation = correlate_levels([torch.randn(1, 5, 3, 3)], RECURSEED)
        assert not scg(torch.full((1, 1, 3, 3), 0.2), correlation, foreground=0.3, background=0.05).any()

    def test_strict_leaves_out_equality(self) -> None:
        maps = torch.tensor([[[[0.3, 0.1, 0.0]]]])
        assert scg(maps, torch.eye(3)[None], foreground=0.3, background=0.0).any()
        assert not scg(maps, torch.eye(3)[None], foreground=0.3, background=0.0, strict=True).any()

    def test_no_class_and_one_place(self) -> None:
        assert scg(torch.zeros(2, 0, 1, 1), torch.ones(2, 1, 1), foreground=0.3, background=0.05).shape == (2, 0, 1, 1)
        assert scg(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1), foreground=0.3, background=0.05).tolist() == [[[[0.0]]]]

    def test_refuses_shapes_and_nan(self) -> None:
        with pytest.raises(ValueError, match="N=6"):
            scg(torch.rand(1, 1, 2, 3), torch.rand(1, 5, 5), foreground=0.3, background=0.05)
        with pytest.raises(ValueError, match="expected maps"):
            scg(torch.rand(2, 3), torch.rand(1, 5, 5), foreground=0.3, background=0.05)
        with pytest.raises(ValueError, match="finite maps"):
            scg(torch.full((1, 1, 1, 1), torch.nan), torch.ones(1, 1, 1), foreground=0.3, background=0.05)
        with pytest.raises(ValueError, match="finite correlations"):
            scg(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1), torch.inf), foreground=0.3, background=0.05)
