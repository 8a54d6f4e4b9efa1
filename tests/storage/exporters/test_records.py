import numpy as np
import pytest

from storage.exporters.records import Mask, Record, checked


def record(image_id: str, mask: Mask) -> Record:
    return Record(image_id, f"{image_id}.jpg", mask)


class TestChecked:
    def test_smoke(self) -> None:
        records = [record("a", np.array([[0, 1, 2, 255]], np.uint8)), record("A", np.zeros((2, 2), np.uint8))]
        assert [item.image_id for item in checked(records, 2)] == ["a", "A"]

    def test_takes_one_at_a_time(self) -> None:
        endless = (record(str(row), np.zeros((1, 1), np.uint8)) for row in iter(int, 1))
        assert next(checked(endless, 1)).image_id == "0"

    def test_refuses_an_id_twice(self) -> None:
        twice = [record("a", np.zeros((1, 1), np.uint8))] * 2
        with pytest.raises(ValueError, match="'a': expected every image id once"):
            list(checked(twice, 1))

    @pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros((1, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)])
    def test_refuses_other_arrays(self, mask: Mask) -> None:
        with pytest.raises(ValueError, match=r"'a': expected a mask \(H, W\) uint8, got"):
            list(checked([record("a", mask)], 1))

    @pytest.mark.parametrize(("classes", "value"), [(0, 1), (2, 3), (2, 254), (253, 254)])
    def test_refuses_values_above_the_classes(self, classes: int, value: int) -> None:
        with pytest.raises(ValueError, match=rf"values 0..{classes} and 255, got {value}"):
            list(checked([record("a", np.full((2, 2), value, np.uint8))], classes))
