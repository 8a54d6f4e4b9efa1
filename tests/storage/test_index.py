import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.files import write_bytes_atomic, write_table
from storage.index import SCHEMA, ImageIndex, build_index, read_index

Make = Callable[..., ImageIndex]
Table = Callable[..., pa.Table]
SMALL = st.tuples(st.integers(1, 512), st.integers(1, 512))
ANY = st.tuples(st.integers(1, 1500), st.integers(1, 1500))


class TestBuildIndex:
    def test_smoke(self, index_of_sizes: Make) -> None:
        index = index_of_sizes([(30, 40), (20, 50), None, (10, 10)])
        assert index.table.schema.equals(SCHEMA)
        assert index.ids == ["i0", "i1", "i2", "i3"]
        assert index.canvases == {(30, 50): 4}
        assert index.sizes == [(30, 40), (20, 50), (0, 0), (10, 10)]
        assert index.class_ids == [[1], [2], [], [1, 2]]
        assert index.targets.tolist() == [[True, False], [False, True], [False, False], [True, True]]
        assert index.ok.tolist() == [True, True, False, True]
        assert index.array_name("label", (30, 50)) == "label"

    def test_canvases_by_hand(self, index_of_sizes: Make) -> None:
        index = index_of_sizes([(513, 300), (100, 100), None, (600, 260), (128, 128), (129, 1)])
        assert index.ids == ["i1", "i2", "i4", "i5", "i0", "i3"]
        assert index.canvases == {(128, 128): 3, (256, 128): 1, (640, 384): 2}
        assert index.table.column("slot").to_pylist() == [0, 1, 2, 0, 0, 1]
        assert index.array_name("label", (640, 384)) == "label-640x384"

    @given(st.lists(st.none() | SMALL, min_size=1, max_size=12))
    @settings(max_examples=25, deadline=None)
    def test_one_canvas_keeps_the_order(self, index_of_sizes: Make, sizes: list[tuple[int, int] | None]) -> None:
        index = index_of_sizes(sizes)
        known = [size for size in sizes if size] or [(1, 1)]
        assert index.ids == [f"i{number}" for number in range(len(sizes))]
        assert index.canvases == {tuple(np.max(known, axis=0).tolist()): len(sizes)}

    @given(st.lists(st.none() | ANY, min_size=1, max_size=12), st.integers(1, 4))
    @settings(max_examples=25, deadline=None)
    def test_every_image_has_one_place(
        self, index_of_sizes: Make, sizes: list[tuple[int, int] | None], size: int
    ) -> None:
        index = index_of_sizes([*sizes, (513, 1)])
        canvases = list(zip(*(index.table.column(f"canvas_{side}").to_pylist() for side in ("height", "width"))))
        assert canvases == sorted(canvases)
        for (height, width), canvas in zip(index.sizes, canvases):
            assert [side % 128 for side in canvas] == [0, 0]
            assert all(0 <= room - side < 128 for room, side in zip(canvas, (max(height, 1), max(width, 1))))
        for canvas in set(canvases):
            rows = [row for row, one in enumerate(canvases) if one == canvas]
            numbers = [int(index.ids[row][1:]) for row in rows]
            assert numbers == sorted(numbers)
            assert [index.table.column("slot")[row].as_py() for row in rows] == list(range(len(rows)))
        shards = index.shards(size)
        assert [row for shard in shards for row in shard.rows] == list(range(len(index)))
        assert [shard.number for shard in shards] == list(range(len(shards)))
        for shard in shards:
            assert 1 <= len(shard.rows) <= size
            assert {canvases[row] for row in shard.rows} == {shard.canvas}
            slots = [index.table.column("slot")[row].as_py() for row in shard.rows]
            assert slots == [shard.object * size + place for place in range(len(slots))]

    def test_quarantined_rows_keep_their_numbers(self, index_of_sizes: Make) -> None:
        whole, damaged = index_of_sizes([(9, 9)] * 4), index_of_sizes([(9, 9), None, (9, 9), None])
        assert damaged.ids == whole.ids
        assert [list(shard.rows) for shard in damaged.shards(3)] == [[0, 1, 2], [3]]
        assert [damaged.working_rows(shard) for shard in damaged.shards(3)] == [[0, 2], []]

    def test_nothing(self, table_of: Callable[..., pa.Table]) -> None:
        index = build_index(table_of([]), ())
        assert (len(index), index.shards(5), index.canvases) == (0, [], {})


class TestKey:
    sizes = ((30, 40), (20, 50), (25, 25))

    def test_paths_do_not_matter(self, index_of_sizes: Make) -> None:
        moved = index_of_sizes(self.sizes, path=["x/a.png", "x/b.png", "c.png"], bytes=[1, 2, 3], mode=["L"] * 3)
        assert moved.key == index_of_sizes(self.sizes).key

    @pytest.mark.parametrize(
        "change",
        [
            {"sha256": ["0" * 64, "1" * 64, "2" * 64]},
            {"labels": [["cat"], ["dog"], ["dog"]]},
            {"image_id": ["i0", "i1", "x"]},
            {"split": ["train", "val", "val"]},
            {"status": ["ok", "ok", "quarantined"]},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_content_matters(self, index_of_sizes: Make, change: dict[str, list[object]]) -> None:
        assert index_of_sizes(self.sizes, **change).key != index_of_sizes(self.sizes).key

    def test_order_of_images_and_classes_matters(self, table_of: Callable[..., pa.Table]) -> None:
        table = table_of(self.sizes)
        keys = {
            build_index(table, ("cat", "dog")).key,
            build_index(table, ("dog", "cat")).key,
            build_index(table.take([1, 0, 2]), ("cat", "dog")).key,
        }
        assert len(keys) == 3

    def test_subset_knows_only_its_rows(self, index_of_sizes: Make) -> None:
        index = index_of_sizes(self.sizes)
        other = index_of_sizes(self.sizes, sha256=[index.hashes[0], index.hashes[1], "f" * 64])
        assert other.subset_key([0, 1]) == index.subset_key([0, 1])
        assert other.subset_key([1, 2]) != index.subset_key([1, 2])
        assert index.subset_key(range(3)) == index.key


class TestReadIndex:
    def test_round_trip(self, index_of_sizes: Make, tmp_path: Path) -> None:
        index = index_of_sizes([(30, 40), None, (600, 50)])
        path = tmp_path / "images.parquet"
        write_bytes_atomic(path, index.to_bytes())
        os.utime(path, (0, 0))
        again = read_index(path)
        assert again.table.equals(index.table)
        assert (again.classes, again.key, again.to_bytes()) == (index.classes, index.key, index.to_bytes())

    @pytest.mark.parametrize(("column", "value"), [("sha256", "0" * 64), ("split", "test"), ("labels", ["dog"])])
    def test_refuses_changed_rows(self, index_of_sizes: Make, tmp_path: Path, column: str, value: object) -> None:
        path = tmp_path / "images.parquet"
        write_bytes_atomic(path, index_of_sizes([(30, 40), (20, 50)]).to_bytes())
        table = pq.read_table(path)
        place = table.column_names.index(column)
        field = table.schema.field(column)
        changed = table.set_column(place, field, pa.array([value, table.column(column)[1].as_py()], field.type))
        write_table(path, changed.replace_schema_metadata(table.schema.metadata))
        with pytest.raises(ValueError, match=r"its rows and its key disagree; run `maskmill stage` again"):
            read_index(path)

    def test_refuses_another_table(self, tmp_path: Path) -> None:
        write_table(tmp_path / "images.parquet", pa.table({"row": [1]}))
        with pytest.raises(ValueError, match=r"expected the columns image_id, path, .*saw row"):
            read_index(tmp_path / "images.parquet")

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="run `maskmill stage` first"):
            read_index(tmp_path / "images.parquet")


class TestFollow:
    """An index after another one: what is still there stays where it is."""

    def test_smoke(self, index_of_sizes: Make, table_of: Table) -> None:
        before = index_of_sizes([(30, 40)] * 5)
        ids = ["i4", "new", "i0", "i1", "i3"]
        index = build_index(table_of([(30, 40)] * 5, image_id=ids), ("cat", "dog"), before)
        assert index.ids == ["i0", "i1", "i3", "i4", "new"]
        assert index.slots.tolist() == [0, 1, 3, 4, 5]
        assert (index.canvases, index.capacities) == ({(30, 40): 5}, {(30, 40): 6})
        first, second = index.shards(3)
        assert (list(first.rows), first.object, first.places) == ([0, 1], 0, ())
        assert (list(second.rows), second.object, second.places) == ([2, 3, 4], 1, ())
        assert [list(part.offsets) for part in index.shards(4)] == [[0, 1, 3], [0, 1]]

    def test_appended_images_make_the_index_that_a_fresh_run_makes(self, index_of_sizes: Make, table_of: Table) -> None:
        before = index_of_sizes([(30, 40)] * 5)
        after = build_index(table_of([(30, 40)] * 7), ("cat", "dog"), before)
        assert after.to_bytes() == index_of_sizes([(30, 40)] * 7).to_bytes()

    def test_another_layout_is_another_key(self, index_of_sizes: Make, table_of: Table) -> None:
        before = index_of_sizes([(30, 40)] * 5)
        table = table_of([(30, 40)] * 4, image_id=["i0", "i1", "i3", "i4"])
        after, fresh = build_index(table, ("cat", "dog"), before), build_index(table, ("cat", "dog"))
        assert after.ids == fresh.ids
        assert after.key != fresh.key
        assert after.subset_key([0, 1]) == fresh.subset_key([0, 1])

    def test_a_shard_that_is_gone(self, index_of_sizes: Make, table_of: Table) -> None:
        before = index_of_sizes([(30, 40)] * 6)
        after = build_index(table_of([(30, 40)] * 4, image_id=["i0", "i1", "i4", "i5"]), ("cat", "dog"), before)
        assert [(part.number, part.object, list(part.rows)) for part in after.shards(2)] == [
            (0, 0, [0, 1]),
            (1, 2, [2, 3]),
        ]

    def test_an_image_that_no_longer_fits_moves(self, index_of_sizes: Make, table_of: Table) -> None:
        before = index_of_sizes([(30, 40)] * 3)
        after = build_index(table_of([(30, 40), (31, 40), (30, 40)]), ("cat", "dog"), before)
        assert after.ids == ["i0", "i2", "i1"]
        assert after.capacities == {(30, 40): 3, (128, 128): 1}
        assert after.array_name("label", (30, 40)) == "label-30x40"

    def test_one_that_knows_little_is_not_followed(self, index_of_sizes: Make, table_of: Table) -> None:
        before = index_of_sizes([(30, 40)] * 2)
        table = table_of([(30, 40)] * 5, image_id=["a", "i1", "b", "i0", "c"])
        assert build_index(table, ("cat", "dog"), before).ids == ["a", "i1", "b", "i0", "c"]

    @given(st.lists(ANY, min_size=1, max_size=10), st.lists(ANY, max_size=5), st.data())
    @settings(max_examples=40, deadline=None)
    def test_every_image_keeps_its_place(
        self,
        index_of_sizes: Make,
        table_of: Table,
        sizes: list[tuple[int, int]],
        more: list[tuple[int, int]],
        data: st.DataObject,
    ) -> None:
        before = index_of_sizes(sizes)
        gone = data.draw(st.sets(st.integers(0, len(sizes) - 1), max_size=len(sizes) // 2))
        left = [(f"i{number}", size) for number, size in enumerate(sizes) if number not in gone]
        listed = data.draw(st.permutations(left + [(f"n{number}", size) for number, size in enumerate(more)]))
        if not listed:
            return
        table = table_of([size for _, size in listed], image_id=[name for name, _ in listed])
        after = build_index(table, ("cat", "dog"), before)
        assert sorted(after.ids) == sorted(name for name, _ in listed)
        places = {name: (after.canvas(row), int(after.slots[row])) for row, name in enumerate(after.ids)}
        assert len({*places.values()}) == len(places)
        if 2 * len(left) >= len(listed):
            for row, name in enumerate(before.ids):
                if name in places:
                    assert places[name] == (before.canvas(row), int(before.slots[row]))
        for row, (height, width) in enumerate(after.sizes):
            canvas = after.canvas(row)
            assert height <= canvas[0]
            assert width <= canvas[1]
        for size in (1, 3):
            parts = after.shards(size)
            assert [row for part in parts for row in part.rows] == list(range(len(after)))
            for part in parts:
                assert {after.canvas(row) for row in part.rows} == {part.canvas}
                assert [part.object * size + one for one in part.offsets] == after.slots[list(part.rows)].tolist()
                assert max(part.offsets) < size
