import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from storage.instances import draw_instances, instances_text
from storage.samples import StagingError

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
SMALL = [[2, 2, 4, 2, 4, 4, 2, 4]]


def draw(*instances: Any, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return draw_instances(instances_text(instances, size), size, classes=3, source="coco.json: image 7")


class TestDrawInstances:
    def test_smoke(self) -> None:
        mask = draw((2, SQUARE))
        assert mask.shape == (6, 8)
        assert mask.dtype == np.uint8
        assert mask[1:5, 1:5].tolist() == [[2] * 4] * 4
        assert np.count_nonzero(mask) == 16

    def test_bare_list_is_read_too(self) -> None:
        text = json.dumps([[2, SQUARE]])
        np.testing.assert_array_equal(draw_instances(text, (6, 8), classes=3, source=""), draw((2, SQUARE)))

    def test_no_instance_is_background(self) -> None:
        assert not draw().any()

    @pytest.mark.parametrize("flip", [False, True])
    def test_smaller_lies_over_larger(self, flip: bool) -> None:
        instances = [(1, SMALL), (2, SQUARE)]
        mask = draw(*(instances[::-1] if flip else instances))
        assert mask[2:4, 2:4].tolist() == [[1, 1], [1, 1]]
        assert (mask == 2).sum() == 12

    def test_crowd_is_ignored(self) -> None:
        assert set(np.unique(draw((255, SQUARE)))) == {0, 255}

    def test_run_lengths_as_numbers_and_text_agree(self) -> None:
        area = np.asfortranarray(draw((1, SQUARE)))
        runs = coco.encode(area)
        text = {"size": runs["size"], "counts": runs["counts"].decode()}
        flat = area.ravel(order="F")
        counts = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)) + 1, len(flat)]).tolist()
        for segmentation in (text, {"size": [6, 8], "counts": counts}):
            np.testing.assert_array_equal(draw((1, segmentation)), area)

    def test_several_polygons_are_one_instance(self) -> None:
        assert (draw((3, [[0, 0, 2, 0, 2, 2, 0, 2], [5, 3, 7, 3, 7, 5, 5, 5]])) == 3).sum() == 8

    def test_polygons_without_area_are_left_out(self) -> None:
        assert not draw((1, [[1, 1, 5, 5]])).any()

    def test_refuses_another_size(self) -> None:
        text = instances_text([(1, SQUARE)], (8, 6))
        with pytest.raises(StagingError, match=r"image 7: expected .* of 8 x 6, the annotation file says 6 x 8"):
            draw_instances(text, (6, 8), classes=3, source="coco.json: image 7")

    @pytest.mark.parametrize("class_id", [0, 4, -1, 300])
    def test_refuses_unknown_class(self, class_id: int) -> None:
        with pytest.raises(StagingError, match=f"instance 1: expected a class id 1..3 or 255, saw {class_id}"):
            draw((class_id, SQUARE))

    @pytest.mark.parametrize(
        "segmentation",
        [
            [[0, 0, 1, 1, 2]],
            [[0, 0, 1, 1, 2, 2, 3]],
            [[0, 0, 1e30, 1, 2, 2]],
            {"size": [6, 8], "counts": [1, 2]},
            {"size": [6, 8], "counts": [-1, 49]},
            {"size": [6, 8], "counts": "~~~~nonsense"},
            {"size": [5, 8], "counts": [40]},
            {"counts": [48]},
            7,
        ],
    )
    def test_broken_segmentations(self, segmentation: Any) -> None:
        if segmentation == [[0, 0, 1, 1, 2]]:
            assert not draw((1, segmentation)).any()
            return
        with pytest.raises(StagingError, match="instance 1"):
            draw((1, segmentation))
