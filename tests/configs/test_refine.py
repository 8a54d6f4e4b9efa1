from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import ConfigError, RunConfig, load_config
from configs.refine import prefixes

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tmp_path: Path) -> Make:
    """Load a configuration with these steps."""

    def make(steps: list[dict[str, Any]], **runtime: Any) -> RunConfig:
        raw = {"dataset": {"format": "folder", "root": "data"}, "refine": steps, "runtime": runtime}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
        return load_config(tmp_path / "run.yaml")

    return make


class TestSteps:
    def test_every_step_with_its_defaults(self, config: Make) -> None:
        names = ["scg", "pamr", "random_walk", "dense_crf", "certain_filter", "edge_predict", "clean_up"]
        assert [one.step for one in config([{"step": name} for name in names]).refine] == names

    @pytest.mark.parametrize(
        ("steps", "message"),
        [
            ([{"step": "pamr"}], "exactly one step of otsu, threshold, certain_filter; saw pamr"),
            ([{"step": "otsu"}, {"step": "threshold"}], "exactly one"),
            ([{"step": "otsu"}, {"step": "pamr"}], "before the deciding step"),
            ([{"step": "clean_up"}, {"step": "otsu"}], "after it; saw clean_up, otsu"),
            ([{"step": "pamr"}, {"step": "scg"}, {"step": "otsu"}], "scg once and first"),
            ([{"step": "pamr", "dilations": [0]}, {"step": "otsu"}], r"refine\.0\.dilations\.0"),
            ([{"step": "blur"}, {"step": "otsu"}], r"refine\.0\.step: expected one of"),
        ],
    )
    def test_refuses(self, config: Make, steps: list[dict[str, Any]], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            config(steps)

    def test_scg_needs_full_precision(self, config: Make) -> None:
        with pytest.raises(ConfigError, match="saw bfloat16; use one or the other"):
            config([{"step": "scg"}, {"step": "otsu"}], precision="bfloat16")


class TestPrefixes:
    def test_names_and_steps(self, config: Make) -> None:
        steps = config([{"step": name} for name in ("scg", "pamr", "pamr", "otsu", "edge_predict", "clean_up")]).refine
        found = prefixes(steps)
        assert [name for name, _ in found] == ["cam", "scg", "pamr", "pamr-2", "edge_predict", "mask"]
        assert [[one.step for one in chain] for _, chain in found][:3] == [
            ["otsu"],
            ["scg", "otsu"],
            ["scg", "pamr", "otsu"],
        ]
        assert found[-1][1] == tuple(steps)
        assert prefixes(steps, every=False) == [found[-1]]

    def test_one_step_is_one_set(self, config: Make) -> None:
        assert [name for name, _ in prefixes(config([{"step": "otsu"}]).refine)] == ["mask"]
