import re
from pathlib import Path
from typing import Any

import pytest

from configs import ConfigError, RunConfig, load_config

DATASET = {"format": "voc", "root": "."}
RUN = """
dataset: {format: voc, root: .}
proposals:
  - {method: grad_cam}
"""
TITLES: list[tuple[dict[str, Any], str]] = [
    ({"method": "grad_cam"}, "grad_cam-S5"),
    ({"method": "grad_cam", "layers": ["S4", "S5"]}, "grad_cam-S4+S5"),
    ({"method": "grad_cam", "layers": ["S4", "S5"], "fuse": "max_tanh"}, "grad_cam-S4+S5-max_tanh"),
    ({"method": "grad_cam", "fuse": "max_tanh"}, "grad_cam-S5"),
    ({"method": "layer_cam", "truncation": 20}, "lt_layer_cam-S5-d20"),
    ({"method": "xgrad_cam", "truncation": 0, "population": "layer"}, "lt_layer_xgrad_cam-S5-d0"),
    (
        {"method": "grad_cam_plus_plus", "layers": ["S3", "S5"], "truncation": 5, "fuse": "mean_norm"},
        "lt_grad_cam_plus_plus-S3+S5-d5-mean_norm",
    ),
    ({"method": "cam"}, "cam"),
    ({"method": "cam", "rectify": True}, "cam-rectified"),
    ({"method": "multi_scale_cam"}, "multi_scale_cam"),
    ({"method": "multi_scale_cam", "scales": [1.0, 2.0], "rectify": False}, "multi_scale_cam-signed"),
    ({"method": "full_grad"}, "full_grad"),
    ({"method": "full_grad", "truncation": 20}, "lt_full_grad-d20"),
    ({"method": "smooth_grad_cam_plus_plus", "layers": ["S4", "S5"]}, "smooth_grad_cam_plus_plus-S4+S5"),
    ({"method": "score_cam"}, "score_cam-S5"),
    ({"method": "ablation_cam", "max_maps": 64}, "ablation_cam-S5-m64"),
    ({"method": "ss_cam", "samples": 8}, "ss_cam-S5"),
    ({"method": "is_cam", "layers": ["features.3"], "max_maps": 2}, "is_cam-features.3-m2"),
]


def run(*proposals: dict[str, Any], **sections: Any) -> RunConfig:
    return RunConfig.model_validate({"dataset": DATASET, "proposals": list(proposals), **sections})


def refused(tmp_path: Path, *overrides: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


class TestProposals:
    @pytest.mark.parametrize(("proposal", "title"), TITLES)
    def test_titles(self, proposal: dict[str, Any], title: str) -> None:
        (made,) = run(proposal).proposals
        assert made.title == title

    @pytest.mark.parametrize("proposal", [proposal for proposal, _ in TITLES])
    def test_settings_hold_all_but_the_name(self, proposal: dict[str, Any]) -> None:
        (plain,), (named,) = run(proposal).proposals, run({**proposal, "name": "mine"}).proposals
        assert named.title == "mine"
        assert named.settings == plain.settings
        assert proposal.items() <= plain.settings.items()
        assert "name" not in plain.settings

    @pytest.mark.parametrize(
        ("proposal", "message"),
        [
            ("{method: gradcam}", r"proposals.0.method: expected one of 'grad_cam', .*, saw 'gradcam'"),
            ("{layers: [S5]}", "proposals.0.method: expected a value, saw none"),
            ("{method: cam, layers: [S5]}", "proposals.0.layers: expected no such key"),
            ("{method: cam, truncation: 20}", "proposals.0.truncation: expected no such key, saw 20"),
            ("{method: multi_scale_cam, scales: []}", "proposals.0.scales: expected at least 1 item"),
            ("{method: multi_scale_cam, scales: [1.0, 0]}", r"proposals.0.scales.1: expected greater than 0, saw 0"),
            ("{method: multi_scale_cam, scales: [1.0, 4.5]}", "proposals.0.scales.1: .*saw 4.5"),
            (
                "{method: multi_scale_cam, scales: [1.0, 0.5, 1.0]}",
                "proposals.0.scales: expected different scales, seen twice: 1",
            ),
            ("{method: multi_scale_cam, layers: [S5]}", "proposals.0.layers: expected no such key"),
            ("{method: full_grad, layers: [S5]}", "proposals.0.layers: expected no such key"),
            ("{method: score_cam, truncation: 20}", "proposals.0.truncation: expected no such key, saw 20"),
            ("{method: score_cam, samples: 20}", "proposals.0.samples: expected no such key, saw 20"),
            ("{method: grad_cam, max_maps: 20}", "proposals.0.max_maps: expected no such key, saw 20"),
            ("{method: grad_cam, truncation: -1}", "proposals.0.truncation: .*saw -1"),
            ("{method: grad_cam, truncation: 20.0}", r"proposals.0.truncation: .*saw 20\.0"),
            ("{method: grad_cam, layers: S5}", "proposals.0.layers: .*saw 'S5'"),
            ("{method: grad_cam, layers: ['']}", "proposals.0.layers.0: .*saw ''"),
            (
                "{method: grad_cam, fuse: mean}",
                "proposals.0.fuse: expected 'sum', 'mean_norm' or 'max_tanh', saw 'mean'",
            ),
            ("{method: grad_cam, population: image}", "proposals.0.population: .*saw 'image'"),
            ("{method: score_cam, max_maps: 0}", "proposals.0.max_maps: .*saw 0"),
            ("{method: ss_cam, samples: 0}", "proposals.0.samples: .*saw 0"),
            ("{method: smooth_grad_cam_plus_plus, sigma: -0.1}", "proposals.0.sigma: .*saw -0.1"),
        ],
    )
    def test_refused_keys_name_file_and_key(self, tmp_path: Path, proposal: str, message: str) -> None:
        found = refused(tmp_path, f"proposals=[{proposal}]")
        assert re.search(rf"run\.yaml: {message}", found), found

    def test_refuses_scales_that_leave_too_little(self, tmp_path: Path) -> None:
        wish = "proposals=[{method: multi_scale_cam, scales: [1.0, 0.25]}]"
        found = refused(tmp_path, wish, "classifier.input_size=124")
        message = (
            "multi_scale_cam: scales: expected images of 32 pixels a side and more, saw 0.25 of classifier.input_size"
        )
        assert f"proposals: {message} 124" in found
        assert run({"method": "multi_scale_cam", "scales": [0.25]}, classifier={"input_size": 128})

    def test_refuses_one_name_twice(self, tmp_path: Path) -> None:
        found = refused(tmp_path, "proposals=[{method: cam}, {method: grad_cam, name: cam}]")
        assert "proposals: expected different names, seen twice: cam" in found


class TestSweep:
    def test_defaults(self) -> None:
        config = run({"method": "grad_cam"}, sweep={})
        assert config.sweep is not None
        assert config.sweep.title == "lt_grad_cam-S3+S4+S5"
        assert [one.truncation for one in config.sweep.proposals()] == list(range(0, 100, 10))
        assert [one.title for one in config.all_proposals[:3]] == [
            "grad_cam-S5",
            "lt_grad_cam-S3+S4+S5-d0",
            "lt_grad_cam-S3+S4+S5-d10",
        ]

    @pytest.mark.parametrize("extra", [{}, {"population": "layer"}, {"fuse": "mean_norm"}, {"layers": ["S4"]}])
    def test_title_is_that_of_its_proposals_without_the_percentile(self, extra: dict[str, Any]) -> None:
        sweep = run({"method": "cam"}, sweep={"method": "layer_cam", **extra}).sweep
        assert sweep is not None
        for one in sweep.proposals():
            assert one.title.replace(f"-d{one.truncation}", "") == sweep.title

    def test_no_sweep(self) -> None:
        config = run({"method": "grad_cam"})
        assert config.sweep is None
        assert config.all_proposals == config.proposals

    def test_a_listed_proposal_is_not_made_twice(self) -> None:
        listed = {"method": "grad_cam", "layers": ["S3", "S4", "S5"], "truncation": 20, "name": "mine"}
        config = run({"method": "cam"}, listed, sweep={"truncations": [0, 20]})
        assert [one.title for one in config.all_proposals] == ["cam", "mine", "lt_grad_cam-S3+S4+S5-d0"]

    @pytest.mark.parametrize(
        ("sweep", "message"),
        [
            ("{truncations: [20, 0, 20]}", "sweep.truncations: expected different percentiles, seen twice: 20"),
            ("{truncations: [20]}", "sweep.truncations: expected at least 2 item(s), saw [20]"),
            ("{truncations: [0, 100]}", "sweep.truncations.1: expected less than or equal to 99, saw 100"),
            ("{method: cam}", "sweep.method: expected 'grad_cam', 'grad_cam_plus_plus', 'layer_cam' or 'xgrad_cam'"),
            ("{method: full_grad}", "sweep.method: expected 'grad_cam'"),
            ("{layers: []}", "sweep.layers: expected at least 1 item(s), saw []"),
            ("{choose: best}", "sweep.choose: expected 'gold' or 'rule', saw 'best'"),
            ("{gold_images: 0}", "sweep.gold_images: expected greater than or equal to 1, saw 0"),
            ("{gold_split: ''}", "sweep.gold_split: "),
            ("{delta: 3}", "sweep.delta: expected no such key, saw 3"),
            ("3", "sweep: "),
        ],
    )
    def test_refused_keys_name_file_and_key(self, tmp_path: Path, sweep: str, message: str) -> None:
        assert f"run.yaml: {message}" in refused(tmp_path, f"sweep={sweep}")

    def test_refuses_a_name_that_a_listed_proposal_has(self, tmp_path: Path) -> None:
        found = refused(tmp_path, "proposals.0.name=lt_grad_cam-S3+S4+S5-d0", "sweep={}")
        assert "proposals: expected different names, seen twice: lt_grad_cam-S3+S4+S5-d0" in found
