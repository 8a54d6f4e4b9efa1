import pytest

from storage.mask_values import mask_values


class TestMaskValues:
    def test_smoke(self) -> None:
        assert mask_values([1, 200], 254) == [1, 200]
        assert mask_values([200, 255], 255) == [1, 2]

    @pytest.mark.parametrize("classes", [20, 1000])
    def test_no_label(self, classes: int) -> None:
        assert mask_values([], classes) == []

    @pytest.mark.parametrize("ids", [[0], [2, 1], [1, 1], [21]])
    def test_refuses_ids(self, ids: list[int]) -> None:
        with pytest.raises(ValueError, match=r"expected class ids 1\.\.20, ascending, got \["):
            mask_values(ids, 20)

    def test_refuses_more_than_a_byte_holds(self) -> None:
        with pytest.raises(ValueError, match="at most 254 classes in one image, got 255"):
            mask_values(range(1, 256), 1000)
