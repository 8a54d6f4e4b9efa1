from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from numpy.typing import NDArray

from methods.refinement.component_boxes import Contours, component_boxes, has_opencv

Golden = Callable[[str], dict[str, Any]]
Mask = NDArray[np.bool_]
Backend = Literal["opencv", "scipy"]
BACKENDS = [
    "scipy",
    pytest.param("opencv", marks=pytest.mark.skipif(not has_opencv(), reason="OpenCV is not installed")),
]
BESIDE = [(0, 1), (1, 0), (0, -1), (-1, 0)]
AROUND = [*BESIDE, (1, 1), (1, -1), (-1, 1), (-1, -1)]
Pixels = set[tuple[int, int]]


def _parts(pixels: Pixels, steps: list[tuple[int, int]]) -> list[Pixels]:
    """Connected parts in raster order of their first pixels."""
    left, parts = set(pixels), []
    for first in sorted(pixels):
        if first not in left:
            continue
        part, edge = {first}, [first]
        while edge:
            y, x = edge.pop()
            new = {(y + dy, x + dx) for dy, dx in steps} & left - part
            part |= new
            edge += new
        left -= part
        parts.append(part)
    return parts


def _box(part: Pixels, grow: int = 0) -> list[int]:
    ys, xs = [y for y, _ in part], [x for _, x in part]
    return [min(xs) - grow, min(ys) - grow, max(xs) + grow + 1, max(ys) + grow + 1]


def _slow(mask: Mask, contours: str) -> list[list[int]]:
    """The definition with sets of pixels: one flood fill per component."""
    height, width = mask.shape
    padded = {(y, x) for y in range(-1, height + 1) for x in range(-1, width + 1)}
    inside = {(y, x) for y, x in np.argwhere(mask).tolist()}
    components = _parts(inside, AROUND)
    if contours == "all":
        _, *holes = _parts(padded - inside, BESIDE)
        return sorted([_box(one) for one in components] + [_box(one, grow=1) for one in holes])
    best, found = -1, []
    for one in components:
        filled = padded - _parts(padded - one, BESIDE)[0]
        blocks = [sum((y + dy, x + dx) in filled for dy in (0, 1) for dx in (0, 1)) for y, x in padded]
        area = sum(max(count - 2, 0) for count in blocks)
        if area >= best:
            best, found = area, [_box(one)]
    return found


def _random(seed: int) -> Mask:
    random = np.random.default_rng(seed)
    mask: Mask = random.random(random.integers(1, 13, 2)) < random.choice([0.1, 0.3, 0.5, 0.7, 0.9])
    return mask


@pytest.mark.parametrize("backend", BACKENDS)
class TestComponentBoxes:
    def test_smoke(self, backend: Backend) -> None:
        boxes = component_boxes(np.ones((3, 4), bool), backend=backend)
        assert boxes.dtype == np.int64
        assert boxes.tolist() == [[0, 0, 4, 3]]

    def test_golden_wsol_box(self, golden: Golden, backend: Backend) -> None:
        case = golden("wsol_box")
        levels = (case["scoremap_q"] / 1000 * 255).astype(np.uint8)
        height, width = levels.shape[1:]
        boxes: dict[Contours, list[list[int]]] = {"largest": [], "all": []}
        counts = []
        for level in levels:
            for threshold in case["box_thresholds"]:
                mask = level > int(threshold * level.max())
                for contours, listed in boxes.items():
                    found = component_boxes(mask, contours, backend=backend)
                    found = np.minimum(found, [width - 1, height - 1] * 2) if len(found) else np.zeros((1, 4), int)
                    listed += sorted(found.tolist())
                counts.append(max(1, len(component_boxes(mask, "all", backend=backend))))
        assert np.array_equal(np.reshape(boxes["largest"], case["single_boxes"].shape), case["single_boxes"])
        assert np.array_equal(np.reshape(counts, case["multi_box_counts"].shape), case["multi_box_counts"])
        assert np.array_equal(boxes["all"], case["multi_boxes_sorted"])

    @pytest.mark.parametrize("percent", [10, 20, 35])
    def test_golden_tscam(self, golden: Golden, backend: Backend, percent: int) -> None:
        levels = (golden("wsol_box")["scoremap_q"] / 1000 * 255).astype(np.uint8)
        for level, expected in zip(levels, golden("loc_errors")[f"tscam_box_thr{percent}"], strict=True):
            found = component_boxes(level > int(percent / 100 * level.max()), backend=backend)
            assert (found.tolist() or [[0, 0, 1, 1]]) == [expected.tolist()]

    @limits(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    @pytest.mark.parametrize("contours", ["largest", "all"])
    def test_equals_a_slow_construction(self, backend: Backend, contours: Any, seed: int) -> None:
        mask = _random(seed)
        assert component_boxes(mask, contours, backend=backend).tolist() == _slow(mask, contours)

    def test_largest_by_polygon_not_by_pixels(self, backend: Backend) -> None:
        mask = np.zeros((6, 12), bool)
        mask[0], mask[3:5, 4:6] = True, True
        assert component_boxes(mask, backend=backend).tolist() == [[4, 3, 6, 5]]

    def test_of_equal_ones_the_last(self, backend: Backend) -> None:
        mask = np.zeros((5, 9), bool)
        mask[0:2, 6:8] = mask[1:3, 0:2] = True
        assert component_boxes(mask, backend=backend).tolist() == [[0, 1, 2, 3]]

    def test_a_ring_counts_as_filled_and_has_a_hole(self, backend: Backend) -> None:
        mask = np.zeros((8, 16), bool)
        mask[1:7, 1:7] = True
        mask[2:6, 2:6] = False
        mask[1:6, 9:14] = True
        assert component_boxes(mask, backend=backend).tolist() == [[1, 1, 7, 7]]
        assert component_boxes(mask, "all", backend=backend).tolist() == [[1, 1, 7, 7], [1, 1, 7, 7], [9, 1, 14, 6]]

    @pytest.mark.parametrize("contours", ["largest", "all"])
    @pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (3, 4000)])
    def test_empty_mask_has_no_box(self, backend: Backend, contours: Any, shape: tuple[int, int]) -> None:
        boxes = component_boxes(np.zeros(shape, bool), contours, backend=backend)
        assert boxes.shape == (0, 4)
        assert boxes.dtype == np.int64

    @pytest.mark.parametrize("contours", ["largest", "all"])
    def test_one_pixel(self, backend: Backend, contours: Any) -> None:
        mask = np.zeros((1, 4000), bool)
        mask[0, 3999] = True
        assert component_boxes(mask, contours, backend=backend).tolist() == [[3999, 0, 4000, 1]]
        assert component_boxes(np.ones((1, 1), bool), contours, backend=backend).tolist() == [[0, 0, 1, 1]]

    def test_a_tensor_gives_a_tensor(self, backend: Backend) -> None:
        boxes = component_boxes(torch.from_numpy(_random(5)), "all", backend=backend)
        assert boxes.dtype == torch.int64
        assert boxes.tolist() == _slow(_random(5), "all")

    def test_leaves_the_mask_alone(self, backend: Backend) -> None:
        mask = _random(3)
        before = mask.copy()
        component_boxes(mask, "all", backend=backend)
        assert np.array_equal(mask, before)


class TestRefusals:
    def test_refuses_scores(self) -> None:
        with pytest.raises(TypeError, match="expected a bool mask, got float64; threshold it first"):
            component_boxes(np.ones((3, 3)))

    def test_refuses_a_batch(self) -> None:
        with pytest.raises(ValueError, match=r"expected a mask \(H, W\), got shape \(2, 3, 3\)"):
            component_boxes(np.ones((2, 3, 3), bool))

    @pytest.mark.parametrize("choice", [{"contours": "some"}, {"backend": "pillow"}])
    def test_refuses_unknown_choices(self, choice: Any) -> None:
        with pytest.raises(ValueError, match=r"expected (contours|backend) '"):
            component_boxes(np.ones((3, 3), bool), **choice)
