import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.report_text import NONE, number, shorten, visible


class TestVisible:
    def test_smoke(self) -> None:
        assert visible("plain ünïcode 🦊") == "plain ünïcode 🦊"

    @pytest.mark.parametrize(("text", "shown"), [("\0", r"\x00"), ("a\nb", r"a\nb"), ("\ud800", r"\ud800")])
    def test_spells_out(self, text: str, shown: str) -> None:
        assert visible(text) == shown

    @given(st.text())
    def test_can_be_written(self, text: str) -> None:
        assert json.loads(json.dumps(visible(text))) == visible(text).encode().decode()


class TestShorten:
    def test_smoke(self) -> None:
        assert shorten("short") == "short"
        assert shorten("x" * 1000, 41) == "x" * 20 + "…" + "x" * 20


class TestNumber:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0.000"),
            (-0.5, "-0.500"),
            (1e9, "1e+09"),
            (float("inf"), "inf"),
            (7, "7"),
            (1234567, "1\u202f234\u202f567"),
            (True, "True"),
            ("", ""),
            (None, NONE),
            (float("nan"), NONE),
        ],
    )
    def test_smoke(self, value: str | float | None, text: str) -> None:
        assert number(value) == text
