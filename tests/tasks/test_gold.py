from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.index import ImageIndex
from tasks.gold import gold_order, gold_rows

LABELS = [["cat"]] * 12 + [["dog"]] * 3 + [[]] * 5 + [["cat", "eel"]]


class TestGoldOrder:
    @given(st.lists(st.text(max_size=4), unique=True, max_size=8), st.randoms(use_true_random=False))
    def test_order_of_rows_does_not_matter(self, ids: list[str], random) -> None:
        other = random.sample(ids, len(ids))
        assert [ids[place] for place in gold_order(ids)] == [other[place] for place in gold_order(other)]


class TestGoldRows:
    def test_every_class_is_there(self, index_of_labels: Callable[..., ImageIndex]) -> None:
        index = index_of_labels(LABELS)
        drawn = gold_rows(index, range(len(LABELS)), 4)
        assert len(drawn) == 4
        assert drawn == sorted(drawn)
        assert {k for row in drawn for k in index.class_ids[row] or [0]} == {0, 1, 2, 3}

    @given(st.integers(1, 20), st.integers(0, 2**20 - 1))
    @settings(max_examples=20)
    def test_more_images_hold_the_fewer(
        self, index_of_labels: Callable[..., ImageIndex], wished: int, chosen: int
    ) -> None:
        index = index_of_labels(LABELS)
        candidates = [row for row in range(len(LABELS)) if chosen >> row & 1]
        fewer, more = (gold_rows(index, candidates, k) for k in (wished, wished + 1))
        assert len(fewer) == min(wished, len(candidates))
        assert set(fewer) <= set(more) <= set(candidates)

    def test_others_do_not_change_who_is_drawn(self, index_of_labels: Callable[..., ImageIndex]) -> None:
        # The same images, of which the index holds more and in another order.
        small, large = index_of_labels(LABELS[:6]), index_of_labels(LABELS)
        assert gold_rows(small, range(6), 3) == gold_rows(large, [5, 4, 3, 2, 1, 0], 3)

    def test_fewer_than_wished(self, index_of_labels: Callable[..., ImageIndex]) -> None:
        index = index_of_labels(LABELS)
        assert gold_rows(index, [3, 1], 20) == [1, 3]
        assert gold_rows(index, [], 20) == []
