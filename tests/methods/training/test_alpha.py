from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.training.alpha import alpha

Golden = Callable[[str], dict[str, Any]]


class TestAlpha:
    def test_smoke(self) -> None:
        assert alpha(3, 10) == pytest.approx(2.4)

    def test_golden(self, golden: Golden) -> None:
        case = golden("puzzle")
        steps = case["_meta"]["alpha_max_iteration"]
        for row, expected in zip(case["_meta"]["alpha_rows"], case["alpha_schedule"], strict=True):
            options = dict(part.split("=") for part in row.split(","))
            found = [
                alpha(step, steps, maximum=float(options["alpha"]), rise=float(options["schedule"]))
                for step in range(len(expected))
            ]
            assert found == pytest.approx(expected.tolist(), abs=1e-9)

    @given(steps=st.integers(1, 500), maximum=st.floats(0, 100), rise=st.floats(0, 1))
    @settings(max_examples=20, deadline=None)
    def test_never_falls_and_never_exceeds(self, steps: int, maximum: float, rise: float) -> None:
        values = [alpha(step, steps, maximum=maximum, rise=rise) for step in range(steps + 2)]
        assert values == sorted(values)
        assert values[-1] == maximum

    @pytest.mark.parametrize(
        ("step", "steps", "option"),
        [
            (-1, 5, {}),
            (0, 0, {}),
            (0, 5, {"rise": 1.1}),
            (0, 5, {"rise": float("nan")}),
            (0, 5, {"maximum": -1.0}),
            (0, 5, {"maximum": float("inf")}),
        ],
    )
    def test_refuses_values_out_of_range(self, step: int, steps: int, option: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=f"step={step}, steps={steps}, "):
            alpha(step, steps, **option)
