import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.exporters.names import FileNames

HOSTILE = [
    "../../etc/passwd",
    "/absolute",
    "a/b",
    "a\\b",
    "🦊",
    "x" * 240,
    "",
    ".",
    "..",
    ".hidden",
    "-rf",
    "row-00000003",
    "ROW-3",
    "nul",
    "COM1.x",
    "dot.",
    "line\nbreak",
    "nul\0byte",
    "name\n",
    "٣",
]


class TestFileNames:
    def test_smoke(self) -> None:
        assert FileNames().take(7, "2007_000032") == "2007_000032"
        assert FileNames().take(7, "x" * 100) == "x" * 100

    @pytest.mark.parametrize("image_id", HOSTILE)
    def test_hostile_ids_give_row_names(self, image_id: str) -> None:
        assert FileNames().take(7, image_id) == "row-00000007"

    def test_twins_by_case(self) -> None:
        names = FileNames()
        assert [names.take(row, name) for row, name in enumerate("aAb")] == ["a", "row-00000001", "b"]

    @given(st.lists(st.text("aAbB.-_/row0123", max_size=14) | st.sampled_from(HOSTILE), max_size=30))
    def test_names_are_safe_and_differ(self, ids: list[str]) -> None:
        names = FileNames()
        given_names = [names.take(row, image_id) for row, image_id in enumerate(ids)]
        assert len({name.lower() for name in given_names}) == len(ids)
        assert all(set(name) <= set(string.ascii_letters + string.digits + "_.-") for name in given_names)
        assert not any(name.startswith((".", "-")) for name in given_names)
