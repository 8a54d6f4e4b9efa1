import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.files import (
    canonical_json,
    file_digest,
    seal,
    short_key,
    sweep_strays,
    table_bytes,
    unseal,
    write_bytes_atomic,
    write_table,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(max_size=5).filter(lambda name: name != "digest")


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class TestCanonicalJson:
    def test_smoke(self) -> None:
        assert canonical_json({"b": [1, 0.5], "a": "ü"}) == '{"a":"ü","b":[1,0.5]}'.encode()

    @given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
    @settings(max_examples=30, deadline=None)
    def test_order_of_keys_does_not_matter(self, value: dict[str, Any]) -> None:
        turned = dict(reversed(value.items()))
        assert canonical_json(turned) == canonical_json(value)
        assert short_key(turned) == short_key(value)
        assert json.loads(canonical_json(value)) == value

    def test_key_is_12_hex_digits(self) -> None:
        # SHA-256 of {"a":1}, by sha256sum.
        assert short_key({"a": 1}) == "015abd7f5cc5"

    @pytest.mark.parametrize("wrong", [math.nan, math.inf])
    def test_refuses_what_json_does_not_know(self, wrong: float) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"a": wrong})


class TestWriteBytesAtomic:
    def test_smoke(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b" / "file.bin"
        write_bytes_atomic(path, b"one")
        write_bytes_atomic(path, b"two")
        assert path.read_bytes() == b"two"
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    @pytest.mark.parametrize("earlier", [b"earlier", None])
    def test_full_disk_leaves_what_was_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, earlier: bytes | None
    ) -> None:
        path = tmp_path / "file.bin"
        if earlier:
            path.write_bytes(earlier)
        monkeypatch.setattr(os if call == "fsync" else Path, call, no_space)
        with pytest.raises(OSError, match="No space left"):
            write_bytes_atomic(path, b"new")
        monkeypatch.undo()
        assert [(found, found.read_bytes()) for found in tmp_path.iterdir()] == ([(path, earlier)] if earlier else [])

    def test_interrupt_leaves_no_temporary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(_handle: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bytes_atomic(tmp_path / "file.bin", b"new")
        assert list(tmp_path.iterdir()) == []

    def test_content_is_flushed_before_the_rename_and_the_folder_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def flush(handle: int) -> None:
            seen.append("folder" if Path(f"/proc/self/fd/{handle}").resolve().is_dir() else "file")
            fsync(handle)

        def rename(self: Path, target: Path) -> Path:
            seen.append("rename")
            return replace(self, target)

        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(Path, "replace", rename)
        write_bytes_atomic(tmp_path / "file.bin", b"new")
        assert seen == ["file", "rename", "folder"]

    def test_longest_name(self, tmp_path: Path) -> None:
        path = tmp_path / ("n" * 255)
        write_bytes_atomic(path, b"")
        assert path.read_bytes() == b""


class TestSeal:
    def test_smoke(self) -> None:
        value = {"unit": "00001", "facts": {"n": 1}, "seconds": 0.5, "text": "ü", "none": None}
        assert unseal(seal(value)) == value
        assert seal(dict(reversed(value.items()))) == seal(value)

    @given(st.dictionaries(NAMES, JSON, max_size=4))
    @settings(max_examples=30, deadline=None)
    def test_round_trip(self, value: dict[str, Any]) -> None:
        assert unseal(seal(value)) == value

    def test_every_single_bit_counts(self) -> None:
        data = seal({"unit": "00001", "objects": {"a.parquet": "0f"}, "facts": {"n": [1, 2.5]}})
        for place in range(len(data)):
            for bit in range(8):
                flipped = bytearray(data)
                flipped[place] ^= 1 << bit
                with pytest.raises(ValueError):  # noqa: PT011 - the parser's message or the digest's
                    unseal(bytes(flipped))

    @pytest.mark.parametrize("change", [b" ", b"\n", b"{}"])
    def test_refuses_appended_bytes(self, change: bytes) -> None:
        with pytest.raises(ValueError, match=r"disagree|Extra data"):
            unseal(seal({"a": 1}) + change)

    def test_refuses_every_cut(self) -> None:
        data = seal({"a": 1})
        for end in range(len(data)):
            with pytest.raises(ValueError):  # noqa: PT011 - the parser's own message
                unseal(data[:end])

    def test_refuses_a_list(self) -> None:
        with pytest.raises(ValueError, match="expected a mapping, saw list"):
            unseal(b"[]")


class TestTables:
    table = pa.table({"row": pa.array([1, 2], pa.int64()), "name": ["a", None]})

    def test_smoke(self, tmp_path: Path) -> None:
        path = tmp_path / "facts" / "00000.parquet"
        write_table(path, self.table)
        assert pq.ParquetFile(path).read().equals(self.table)
        assert pq.ParquetFile(path).schema_arrow.metadata[b"schema_version"] == b"1"
        assert list(path.parent.iterdir()) == [path]

    def test_same_table_same_bytes(self) -> None:
        again = pa.table({"row": pa.array([1, 2], pa.int64()), "name": ["a", None]})
        assert table_bytes(self.table) == table_bytes(again)

    def test_traces_of_pandas_are_left_out(self) -> None:
        rows = self.table.select(["row"])
        frame = pa.Table.from_pandas(rows.to_pandas())
        assert b"pandas" in (frame.schema.metadata or {})
        assert table_bytes(frame) == table_bytes(rows)


class TestSweepStrays:
    def test_removes_temporaries_and_nothing_else(self, tmp_path: Path) -> None:
        strays = [".a.json.1f.tmp", "deep/.b.tmp", "x.zarr/c/0/0.93.partial"]
        keep = ["a.json", "notes.tmp", ".hidden", "deep/.tmp.json", "x.zarr/c/0/0", "x.zarr/zarr.json"]
        for name in strays + keep:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        (tmp_path / "folder.partial").mkdir()
        assert sorted(sweep_strays(tmp_path)) == sorted(tmp_path / name for name in strays)
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert left == set(keep)
        assert (tmp_path / "folder.partial").is_dir()
        assert sweep_strays(tmp_path) == []

    def test_names_what_an_interrupted_write_leaves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", no_space)
        monkeypatch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)
        with pytest.raises(OSError, match="No space"):
            write_bytes_atomic(tmp_path / "file.bin", b"new")
        monkeypatch.undo()
        assert len(list(tmp_path.iterdir())) == 1
        assert len(sweep_strays(tmp_path)) == 1


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
