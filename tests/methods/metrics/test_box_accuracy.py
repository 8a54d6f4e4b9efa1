from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from methods.metrics.box_accuracy import BoxAccuracy
from methods.metrics.boxes import box_iou
from methods.refinement.component_boxes import component_boxes, has_opencv

Golden = Callable[[str], dict[str, Any]]
CONTOURS = [("largest", "single"), ("all", "multi")]


@pytest.fixture(params=[True, False], ids=["opencv", "scipy"])
def opencv(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of drawing boxes."""
    if request.param and not has_opencv():
        pytest.skip("OpenCV is not installed")
    monkeypatch.setattr("methods.metrics.level_boxes.has_opencv", lambda: request.param)


def _split(case: dict[str, Any]) -> list[Any]:
    return np.split(case["gt_boxes_resized"], np.cumsum(case["gt_box_counts"])[:-1])


def _random(seed: int, images: int = 3) -> tuple[Any, list[Any]]:
    """Rough maps with few levels, and one or two boxes each."""
    random = np.random.default_rng(seed)
    height, width = random.integers(4, 14, 2)
    scores = random.integers(0, random.integers(2, 256), (images, height, width)) / 255
    scores[0, : height // 2] = random.choice([0, 1])
    corners = random.integers(0, min(height, width), (images, 2, 2, 2))
    boxes = [np.concatenate([one.min(axis=1), one.max(axis=1)], axis=1)[: 1 + seed % 2] for one in corners]
    return scores, boxes


def _slow(scores: Any, boxes: Sequence[Any], accuracy: BoxAccuracy) -> Any:
    """The definition: a mask and its boxes for every image and threshold."""
    correct = np.zeros_like(accuracy.correct)
    height, width = scores.shape[1:]
    for levels, truth in zip((scores * 255).astype(np.uint8), boxes, strict=True):
        for place, threshold in enumerate(accuracy.score_thresholds):
            found = component_boxes(levels > int(threshold * levels.max()), accuracy.contours, backend="scipy")
            found = np.minimum(found, [width - 1, height - 1] * 2) if len(found) else np.zeros((1, 4), int)
            correct[:, place] += box_iou(found, truth).max() >= np.array(accuracy.iou_thresholds) / 100
    return correct


@pytest.mark.usefixtures("opencv")
class TestBoxAccuracy:
    def test_smoke(self) -> None:
        accuracy = BoxAccuracy()
        hits = accuracy.update(torch.rand(2, 224, 224, dtype=torch.float64), [torch.tensor([[0, 0, 223, 223]])] * 2)
        assert accuracy.correct.shape == (3, 1000)
        assert accuracy.correct.dtype == np.int64
        assert np.array_equal(hits.sum(axis=0), accuracy.correct)
        assert (accuracy.images, accuracy.compute()["max_box_acc"]) == (2, 1.0)

    @pytest.mark.parametrize(("contours", "name"), CONTOURS)
    @pytest.mark.parametrize(("step", "suffix"), [(0.001, "s001"), (0.01, "s01")])
    def test_golden(self, golden: Golden, contours: Any, name: str, step: float, suffix: str) -> None:
        case = golden("wsol_box")
        accuracy = BoxAccuracy(case["_meta"]["iou_thresholds"], step, contours)
        accuracy.update(case["scoremap_q"] / 1000, _split(case))
        found = accuracy.compute()
        assert np.array_equal(accuracy.score_thresholds, case[f"cam_thresholds_{suffix}"])
        assert np.array_equal(accuracy.correct, case[f"num_correct_{suffix}_{name}"])
        np.testing.assert_allclose(found["box_acc"] * 100, case[f"maxboxacc_per_iou_{suffix}_{name}"], atol=1e-9)
        key, metric = ("MaxBoxAcc", "max_box_acc") if name == "single" else ("MaxBoxAccV2", "max_box_acc_v2")
        assert found[metric] * 100 == pytest.approx(case["_meta"][f"{key}_{suffix}"], abs=1e-9)

    @pytest.mark.parametrize(("contours", "name"), CONTOURS)
    def test_golden_best_threshold(self, golden: Golden, contours: Any, name: str) -> None:
        case = golden("wsol_box")
        accuracy = BoxAccuracy(case["_meta"]["iou_thresholds"], contours=contours)
        accuracy.update(case["scoremap_q"] / 1000, _split(case))
        expected = golden("loc_errors")[f"best_tau_{name}"]
        np.testing.assert_allclose(accuracy.compute()["best_threshold"], expected, atol=1e-9)

    @limits(max_examples=40, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    @pytest.mark.parametrize("contours", ["largest", "all"])
    def test_equals_a_slow_construction(self, contours: Any, seed: int) -> None:
        scores, boxes = _random(seed)
        accuracy = BoxAccuracy((5, 30, 50, 70, 100), 0.03, contours)
        accuracy.update(scores, boxes)
        assert np.array_equal(accuracy.correct, _slow(scores, boxes, accuracy))

    @limits(max_examples=25, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    @pytest.mark.parametrize("contours", ["largest", "all"])
    def test_equals_a_slow_construction_on_smooth_maps(self, contours: Any, seed: int) -> None:
        random = np.random.default_rng(seed)
        height, width = random.integers(3, 32, 2)
        noise = gaussian_filter(random.random((2, height, width)), [0, *random.uniform(0, 3, 2)])
        scores = (noise - noise.min()) / (np.ptp(noise) or 1)
        corners = np.sort(random.integers(0, [width, height], (2, 1 + seed % 2, 2, 2)), axis=2)
        accuracy = BoxAccuracy((5, 30, 50, 70, 100), 0.01, contours)
        boxes = list(corners.reshape(2, -1, 4))
        accuracy.update(scores, boxes)
        assert np.array_equal(accuracy.correct, _slow(scores, boxes, accuracy))

    @limits(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.permutations(range(3)))
    def test_merging_in_any_order_is_one_pass(self, seed: int, order: list[int]) -> None:
        scores, boxes = _random(seed)
        whole, merged = BoxAccuracy(step=0.1), BoxAccuracy(step=0.1)
        whole.update(scores, boxes)
        for place in order:
            part = BoxAccuracy(step=0.1)
            part.update(scores[place : place + 1], boxes[place : place + 1])
            merged.merge(part)
        assert np.array_equal(merged.correct, whole.correct)
        assert merged.images == whole.images == 3

    @pytest.mark.parametrize(("value", "expected"), [(0.0, 0), (1.0, 1), (0.002, 0)])
    def test_constant_map_is_empty_or_everything(self, value: float, expected: int) -> None:
        accuracy = BoxAccuracy(step=0.1)
        accuracy.update(np.full((1, 6, 8), value), [np.array([[0, 0, 7, 5]])])
        assert (accuracy.correct == expected).all()

    def test_empty_map_has_the_box_of_the_first_pixel(self) -> None:
        accuracy = BoxAccuracy(step=0.1)
        accuracy.update(np.zeros((1, 6, 8)), [np.array([[0, 0, 1, 0]])])
        assert accuracy.correct[:, 0].tolist() == [1, 1, 0]

    def test_one_pixel_and_a_wide_map(self) -> None:
        accuracy = BoxAccuracy(step=0.1)
        accuracy.update(np.ones((1, 1, 1)), [np.array([[0, 0, 0, 0]])])
        wide = np.zeros((1, 2, 4000))
        wide[..., 3990:] = 0.7
        accuracy.update(wide, [np.array([[3990, 0, 3999, 1]])])
        assert (accuracy.correct == 2).all()

    def test_boxes_outside_of_the_map_are_missed(self) -> None:
        accuracy = BoxAccuracy(step=0.1)
        accuracy.update(np.ones((1, 6, 8)), [np.array([[20, 20, 30, 30]])])
        assert not accuracy.correct.any()


class TestGolden:
    def test_is_read_completely(self, golden: Golden) -> None:
        # The first row here, the boxes by test_boxes and tests/methods/refinement/test_component_boxes.
        kinds = [f"{step}_{name}" for step in ("s001", "s01") for _, name in CONTOURS]
        assert set(golden("wsol_box")) == {
            *("scoremap_q", "gt_box_counts", "gt_boxes_resized", "cam_thresholds_s001", "cam_thresholds_s01", "_meta"),
            *(f"num_correct_{kind}" for kind in kinds),
            *(f"maxboxacc_per_iou_{kind}" for kind in kinds),
            *("image_sizes_wh", "class_labels", "gt_boxes_original", "box_thresholds"),
            *("single_boxes", "multi_boxes_sorted", "multi_box_counts"),
        }


class TestRefusals:
    def test_nothing_counted_is_undefined(self) -> None:
        accuracy = BoxAccuracy()
        accuracy.update(np.zeros((0, 224, 224)), [])
        found = accuracy.compute()
        assert np.isnan([found["max_box_acc"], found["max_box_acc_v2"]]).all()

    def test_max_box_acc_needs_fifty_percent(self) -> None:
        accuracy = BoxAccuracy((30,), 0.1)
        accuracy.update(np.ones((1, 2, 2)), [np.array([[0, 0, 1, 1]])])
        assert np.isnan(accuracy.compute()["max_box_acc"])
        assert accuracy.compute()["max_box_acc_v2"] == 1

    @pytest.mark.parametrize("value", [np.nan, np.inf, -0.01, 1.01])
    def test_refuses_scores(self, value: float) -> None:
        scores = np.full((1, 4, 4), 0.5)
        scores[0, 1, 1] = value
        with pytest.raises(ValueError, match=r"finite scores in 0\.\.1"):
            BoxAccuracy().update(scores, [np.array([[0, 0, 1, 1]])])

    def test_refuses_levels(self) -> None:
        with pytest.raises(TypeError, match=r"floating point in 0\.\.1, got uint8"):
            BoxAccuracy().update(np.zeros((1, 4, 4), np.uint8), [np.array([[0, 0, 1, 1]])])

    @pytest.mark.parametrize(
        ("boxes", "error", "message"),
        [
            ([], ValueError, "boxes of 1 images, got 0"),
            ([np.zeros((0, 4), int)], ValueError, "image 0: expected at least one true box"),
            ([np.array([[0.0, 0, 1, 1]])], TypeError, "image 0: expected integer boxes, got float64"),
            ([np.array([[3, 0, 1, 1]])], ValueError, "image 0: true boxes"),
        ],
    )
    def test_refused_boxes_leave_the_counts_alone(self, boxes: Any, error: type[Exception], message: str) -> None:
        accuracy = BoxAccuracy()
        with pytest.raises(error, match=message):
            accuracy.update(np.ones((1, 4, 4)), boxes)
        assert not accuracy.correct.any()
        assert accuracy.images == 0

    def test_refuses_to_merge_other_thresholds(self) -> None:
        with pytest.raises(ValueError, match=r"'largest'.*'all'"):
            BoxAccuracy().merge(BoxAccuracy(contours="all"))

    @pytest.mark.parametrize(
        "parameters",
        [{"iou_thresholds": ()}, {"iou_thresholds": (0,)}, {"step": 0}, {"step": 1}, {"contours": "some"}],
    )
    def test_refuses_parameters(self, parameters: Any) -> None:
        with pytest.raises(ValueError, match="expected"):
            BoxAccuracy(**parameters)
