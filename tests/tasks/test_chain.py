import pytest
import torch
from torch import Tensor

from configs import ConfigError, RunConfig
from configs.refine import (
    CertainFilterStep,
    CleanUpStep,
    EdgePredictStep,
    OtsuStep,
    PamrStep,
    RandomWalkStep,
    ScgStep,
    Step,
    ThresholdStep,
)
from methods.refinement import merge_classes, otsu_thresholds
from tasks.chain import Chain, StepError, check_packages

OTSU = OtsuStep(step="otsu")
PAMR = PamrStep(step="pamr", iterations=2, dilations=[1, 2])
SIZE = (24, 32)


@pytest.fixture
def maps() -> Tensor:
    """Two soft blobs in 0..1."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIZE[0]), torch.linspace(0, 1, SIZE[1]), indexing="ij")
    blobs = [torch.exp(-((y - 0.5) ** 2 + (x - centre) ** 2) / 0.03) for centre in (0.25, 0.75)]
    return torch.stack([(blob - blob.min()) / (blob.max() - blob.min()) for blob in blobs])


def _chain(maps: Tensor, **changes: Tensor) -> Chain:
    pixels = torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    return Chain(pixels, torch.tensor([3, 7][: len(maps)]), maps, **changes)


class TestChain:
    def test_otsu_alone_is_the_plain_merge(self, maps: Tensor) -> None:
        found = _chain(maps).decide([OTSU])
        thresholds = otsu_thresholds(maps)
        label, confidence = merge_classes(maps, thresholds, torch.tensor([3, 7]))
        assert torch.equal(found.label, label)
        assert torch.equal(found.confidence, confidence)
        assert found.thresholds == thresholds.tolist()

    @pytest.mark.parametrize(
        "steps",
        [
            [PAMR, OTSU],
            [RandomWalkStep(step="random_walk", side=16), OTSU],
            [PAMR, PAMR, ThresholdStep(step="threshold", value=0.3)],
            [CertainFilterStep(step="certain_filter"), EdgePredictStep(step="edge_predict")],
            [CertainFilterStep(step="certain_filter"), EdgePredictStep(step="edge_predict", source="image")],
            [OTSU, CleanUpStep(step="clean_up")],
        ],
        ids=lambda steps: "+".join(one.step for one in steps),
    )
    def test_every_step_gives_labels_of_the_image(self, maps: Tensor, steps: list[Step]) -> None:
        found = _chain(maps).decide(steps)
        assert found.label.shape == found.confidence.shape == SIZE
        assert found.label.dtype == torch.uint8
        assert {0, 3, 7} <= set(found.label.unique().tolist()) <= {0, 3, 7, 255}
        assert not found.confidence[found.label == 255].any()
        assert len(found.thresholds) == 2

    def test_prefixes_share_what_they_have_in_common(self, maps: Tensor) -> None:
        chain = _chain(maps)
        once = chain.refined([PAMR])
        assert chain.refined([PAMR, PAMR]) is not once
        assert chain.refined([PAMR]) is once

    def test_self_correlated_maps_take_the_place_of_the_methods(self, maps: Tensor) -> None:
        scg = ScgStep(step="scg")
        swapped = _chain(maps, correlated=maps.flip(0)).decide([scg, OTSU])
        plain = _chain(maps).decide([OTSU])
        assert torch.equal(swapped.label == 3, plain.label == 7)

    def test_no_class_is_background(self) -> None:
        for steps in ([PAMR, OTSU], [CertainFilterStep(step="certain_filter")], [OTSU, CleanUpStep(step="clean_up")]):
            found = _chain(torch.zeros(0, *SIZE)).decide(steps)  # type: ignore[arg-type]
            assert not found.label.any()

    def test_a_constant_map_is_not_background(self, maps: Tensor) -> None:
        maps[1] = 0
        for decider in (OTSU, ThresholdStep(step="threshold"), CertainFilterStep(step="certain_filter")):
            found = _chain(maps).decide([decider])
            assert found.thresholds[1] == -1
            assert set(found.label.unique().tolist()) == {3, 255}

    def test_names_the_step_that_fails(self, maps: Tensor) -> None:
        with pytest.raises(StepError, match="scg: expected self-correlated maps"):
            _chain(maps).decide([ScgStep(step="scg"), OTSU])
        maps[0, 0, 0] = torch.nan
        with pytest.raises(StepError) as caught:
            _chain(maps).decide([PAMR, OTSU])
        assert caught.value.step == "pamr"
        assert "finite" in caught.value.reason

    def test_a_missing_package_is_refused_before_any_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = [{"step": "pamr"}, {"step": "dense_crf"}, {"step": "otsu"}]
        config = RunConfig.model_validate({"dataset": {"format": "folder", "root": "data"}, "refine": steps})
        monkeypatch.setattr("tasks.chain.find_spec", lambda _name: None)
        with pytest.raises(ConfigError, match=r"refine\.1: dense_crf expected the package pydensecrf"):
            check_packages(config)
