import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.arrays import ArrayError, ArraySpec, array_path, create_array, open_array, read_rows, write_shard
from storage.files import file_digest

SPEC = ArraySpec(name="label", rows=7, item=(4, 5), shard_rows=3, dtype="uint8", fill=255)


def items(count: int, value: int = 0) -> np.ndarray:
    return np.arange(value, value + count * 20, dtype=np.uint8).reshape(count, 4, 5)


class TestArraySpec:
    def test_round_trip(self) -> None:
        assert SPEC.shape == (7, 4, 5)
        assert ArraySpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


class TestCreateArray:
    def test_smoke(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        array = open_array(tmp_path, SPEC)
        assert (array.shape, array.chunks, array.shards) == ((7, 4, 5), (1, 4, 5), (3, 4, 5))
        assert [path.name for path in array_path(tmp_path, "label").iterdir()] == ["zarr.json"]

    def test_same_declaration_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            create_array(tmp_path / name, SPEC)
            write_shard(tmp_path / name, SPEC, 0, items(3))
        for name in ("zarr.json", "c/0/0/0"):
            first, second = (file_digest(array_path(tmp_path / one, "label") / name) for one in ("a", "b"))
            assert first == second

    def test_twice_keeps_the_rows(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        write_shard(tmp_path, SPEC, 1, items(3))
        create_array(tmp_path, SPEC)
        assert np.array_equal(read_rows(tmp_path, SPEC, 3, 6), items(3))

    @pytest.mark.parametrize(
        "change", [{"rows": 8}, {"item": (5, 4)}, {"shard_rows": 7}, {"dtype": "float32"}, {"dtype": "int8"}]
    )
    def test_refuses_other_metadata(self, tmp_path: Path, change: dict[str, object]) -> None:
        create_array(tmp_path, SPEC)
        for action in (create_array, open_array):
            with pytest.raises(ArrayError, match=r"label\.zarr: expected shape, chunks, shards, type .*saw"):
                action(tmp_path, replace(SPEC, **change))

    def test_refuses_chunks_of_more_than_a_gibibyte(self, tmp_path: Path) -> None:
        with pytest.raises(ArrayError, match="expected chunks of at most 1073741824 bytes"):
            open_array(tmp_path, replace(SPEC, item=(1 << 15, (1 << 15) + 1)))


class TestWriteShard:
    def test_smoke(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        path = write_shard(tmp_path, SPEC, 1, items(3))
        assert path == tmp_path / "label.zarr/c/1/0/0"
        assert np.array_equal(read_rows(tmp_path, SPEC, 3, 6), items(3))

    def test_unwritten_rows_are_ignore(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        write_shard(tmp_path, SPEC, 1, items(3))
        assert (read_rows(tmp_path, SPEC, 0, 3) == 255).all()
        assert (read_rows(tmp_path, SPEC, 6, 7) == 255).all()

    def test_a_damaged_shard_is_written_anew(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        path = write_shard(tmp_path, SPEC, 0, items(3))
        sound = path.read_bytes()
        for damage in (sound[:-1] + bytes([sound[-1] ^ 1]), sound[: len(sound) // 2], b""):
            path.write_bytes(damage)
            write_shard(tmp_path, SPEC, 0, items(3))
            assert path.read_bytes() == sound

    def test_last_shard_is_short(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        write_shard(tmp_path, SPEC, 2, items(1))
        assert np.array_equal(read_rows(tmp_path, SPEC, 6, 7), items(1))
        with pytest.raises(ArrayError, match="expected up to 1 items"):
            write_shard(tmp_path, SPEC, 2, items(2))

    def test_a_short_one_elsewhere_is_filled_up(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        write_shard(tmp_path, SPEC, 0, items(3))
        write_shard(tmp_path, SPEC, 0, items(1, value=9))
        assert np.array_equal(read_rows(tmp_path, SPEC, 0, 1), items(1, value=9))
        assert (read_rows(tmp_path, SPEC, 1, 3) == 255).all()

    @pytest.mark.parametrize("value", [0, 255])
    def test_a_shard_of_one_value_has_an_object(self, tmp_path: Path, value: int) -> None:
        create_array(tmp_path, SPEC)
        assert write_shard(tmp_path, SPEC, 0, np.full((3, 4, 5), value, np.uint8)).is_file()

    @given(st.permutations([0, 1, 2]), st.integers(0, 2**31))
    @settings(max_examples=5, deadline=None)
    def test_shards_in_any_order(self, tmp_path_factory: pytest.TempPathFactory, order: list[int], seed: int) -> None:
        folder = tmp_path_factory.mktemp("arrays")
        data = np.random.default_rng(seed).integers(0, 256, SPEC.shape, np.uint8)
        create_array(folder, SPEC)
        for shard in order:
            write_shard(folder, SPEC, shard, data[shard * 3 : shard * 3 + 3])
        assert np.array_equal(read_rows(folder, SPEC, 0, 7), data)

    @pytest.mark.parametrize(
        "data",
        [items(4), items(3).astype(np.int8), items(3).astype(np.float32), items(3)[:, :, :4], items(3)[0]],
        ids=["too many", "int8", "float32", "narrow", "one item"],
    )
    def test_refuses_other_items(self, tmp_path: Path, data: np.ndarray) -> None:
        create_array(tmp_path, SPEC)
        with pytest.raises(ArrayError, match=r"label\.zarr shard 0: expected up to 3 items of \(4, 5\) uint8, saw"):
            write_shard(tmp_path, SPEC, 0, data)
        assert not (tmp_path / "label.zarr/c").exists()

    def test_refuses_a_shard_behind_the_end(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        with pytest.raises(ArrayError, match="shard 3"):
            write_shard(tmp_path, SPEC, 3, items(1))

    def test_full_disk_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_space(_handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        create_array(tmp_path, SPEC)
        monkeypatch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            write_shard(tmp_path, SPEC, 0, items(3))

    def test_a_flipped_bit_in_an_object_is_noticed(self, tmp_path: Path) -> None:
        create_array(tmp_path, SPEC)
        path = write_shard(tmp_path, SPEC, 0, np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8))
        data = bytearray(path.read_bytes())
        data[12] ^= 4
        path.write_bytes(data)
        with pytest.raises(RuntimeError, match=r"(?i)checksum|corrupt|decompress"):
            read_rows(tmp_path, SPEC, 0, 3)
