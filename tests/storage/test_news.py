from collections.abc import Callable

import pytest

from storage.index import ImageIndex
from storage.news import compare

Make = Callable[..., ImageIndex]


class TestCompare:
    def test_smoke(self, index_of_sizes: Make) -> None:
        before, after = index_of_sizes([(9, 9)] * 3), index_of_sizes([(9, 9)] * 4, image_id=["i0", "x", "i2", "y"])
        news = compare(before, after)
        assert (news.added, news.removed, news.changed) == (("x", "y"), ("i1",), ())
        assert news.counts == {"added": 2, "removed": 1, "changed": 0}

    def test_nothing(self, index_of_sizes: Make) -> None:
        index = index_of_sizes([(9, 9), None])
        assert not any(compare(index, index).counts.values())

    @pytest.mark.parametrize(
        "change",
        [
            {"sha256": ["f" * 64, "", ""]},
            {"labels": [["dog"], ["dog"], []]},
            {"split": ["val", "val", "train"]},
            {"status": ["quarantined", "ok", "ok"]},
            {"width": [8, 9, 9]},
        ],
    )
    def test_what_counts_as_changed(self, index_of_sizes: Make, change: dict[str, list[object]]) -> None:
        before = index_of_sizes([(9, 9)] * 3)
        (column,) = change
        values = [change[column][0], *before.table.column(column).to_pylist()[1:]]
        assert compare(before, index_of_sizes([(9, 9)] * 3, **{column: values})).changed == ("i0",)

    def test_order_and_path_do_not_count(self, index_of_sizes: Make) -> None:
        before = index_of_sizes([(9, 9)] * 2)
        assert not any(compare(before, index_of_sizes([(9, 9)] * 2, path=["a", "b"])).counts.values())
