from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.refinement import RECURSEED, SPA_CUB, self_correlation
from methods.refinement.correlation_in_place import Orders, correlate_in_place
from methods.refinement.self_correlation import ScgConstants

Golden = Callable[[str], dict[str, Any]]


def _options(constants: ScgConstants) -> dict[str, Any]:
    names = ("first_threshold", "second_threshold", "second_weight", "epsilon")
    return {name: getattr(constants, name) for name in names}


class TestCorrelateInPlace:
    def test_smoke(self) -> None:
        flat = torch.nn.functional.normalize(torch.rand(8, 11), dim=0)
        found = torch.full((11, 11), torch.nan)
        correlate_in_place(flat, Orders(0.5, 0.01, 1.0, 1e-10, 1e-10), 4, found)
        torch.testing.assert_close(found.sum(0), torch.ones(11))

    @given(seed=st.integers(0, 999), block=st.integers(1, 29))
    @settings(max_examples=25, deadline=None)
    @pytest.mark.parametrize("constants", [RECURSEED, SPA_CUB], ids=["recurseed", "spa"])
    def test_blocks_equal_the_whole(self, constants: ScgConstants, seed: int, block: int) -> None:
        features = torch.rand(2, 6, 5, 6, generator=torch.Generator().manual_seed(seed)).square()
        whole = self_correlation(features, **_options(constants))
        found = self_correlation(features, **_options(constants), block=block)
        # A value at a bound may fall to either side of it by rounding; columns then differ in all places.
        near = (found - whole).abs().amax(1) <= 1e-6
        assert float(near.float().mean()) > 0.9

    @pytest.mark.parametrize("config", ["cub", "ilsvrc"])
    @pytest.mark.parametrize("level", ["4", "5"])
    def test_golden_in_blocks(self, golden: Golden, config: str, level: str) -> None:
        case = golden("scg_spa")
        about = case["_meta"]["configs"][config]
        constants = ScgConstants(about["fosc_th"], about["sosc_th"], about["so_weight"], 1e-5, 0.1, 0.05)
        features, expected = (torch.from_numpy(case[name]) for name in (f"feat{level}", f"{config}_hsc_{level}"))
        block = expected.shape[1] // 3 + 1
        found = self_correlation(features, **_options(constants), order=about["order"], block=block)
        # An entry within rounding of a bound may flip.
        assert float(((found - expected).abs() > 1e-7).float().mean()) <= 1e-4

    def test_places_without_features(self) -> None:
        features = torch.rand(1, 6, 3, 4)
        features[..., 1] = 0
        found = self_correlation(features, **_options(RECURSEED), block=5)
        torch.testing.assert_close(found, self_correlation(features, **_options(RECURSEED)))

    def test_adds_to_what_is_there(self) -> None:
        features, before = torch.rand(2, 6, 3, 4), torch.rand(2, 12, 12)
        whole = before.clone()
        self_correlation(features, **_options(RECURSEED), block=5, out=whole)
        torch.testing.assert_close(whole - before, self_correlation(features, **_options(RECURSEED), block=5))
