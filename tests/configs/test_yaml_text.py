from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.yaml_text import dump_yaml, parse_yaml

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


class TestParseYaml:
    def test_smoke(self) -> None:
        assert parse_yaml("a: [1, two, 3.0]\nb: {c: null}", "x") == {"a": [1, "two", 3.0], "b": {"c": None}}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-4", 1e-4),
            ("1E5", 1e5),
            ("-2.5e+3", -2500.0),
            (".5e3", 500.0),
            ("1.e2", 100.0),
            ("e-4", "e-4"),
            ("1e", "1e"),
            ("'1e-4'", "1e-4"),
        ],
    )
    def test_exponents(self, text: str, value: object) -> None:
        seen = parse_yaml(text, "x")
        assert seen == value
        assert type(seen) is type(value)

    @pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "{a: 1, b: 2, a: 1}", "a: 1\n'b': 2\n\"a\": 3"])
    def test_refuses_duplicate_keys(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"x: line \d: key 'a' is written twice \(first in line 1\)"):
            parse_yaml(text, "x")

    def test_refuses_nested_duplicates(self) -> None:
        with pytest.raises(ConfigError, match="line 4: key 'b' is written twice"):
            parse_yaml("top:\n  - a: 1\n    b: 2\n    b: 3", "x")

    def test_anchors_and_merges(self) -> None:
        text = "base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\nsame: *b"
        assert parse_yaml(text, "x") == {"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}, "same": {"x": 1, "y": 2}}

    @pytest.mark.parametrize(
        "tag",
        [
            "!!python/object/apply:os.system ['touch {path}']",
            "!!python/name:os.system",
            "!!python/tuple [1]",
            "!own {}",
        ],
    )
    def test_refuses_tags_that_build_objects(self, tag: str, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        with pytest.raises(ConfigError, match="could not determine a constructor"):
            parse_yaml(f"a: {tag.replace('{path}', str(mark))}", "x")
        assert not mark.exists()

    @pytest.mark.parametrize(
        "text",
        ["a: [1", "a: b: c", "\t- a", "a: 1\n---\nb: 2", "*unknown", "a: 2024-99-99", "[" * 3000, "a: \0", "[a]: 1"],
        ids=["open", "nested", "tab", "two documents", "alias", "date", "deep", "nul", "list as key"],
    )
    def test_refuses_broken_text(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"^x: "):
            parse_yaml(text, "x")


class TestDumpYaml:
    @given(values)
    def test_reads_back_equal(self, value: object) -> None:
        assert parse_yaml(dump_yaml(value), "x") == value

    @pytest.mark.parametrize(
        "text", ["1e-4", "no", "null", "~", "1:30", "2024-01-01", "<<", "=", "", " a ", "0x1f", "a\x85b", "\u2028"]
    )
    def test_text_stays_text(self, text: str) -> None:
        assert parse_yaml(dump_yaml([text, {text: text}]), "x") == [text, {text: text}]

    def test_no_anchors(self) -> None:
        shared = [1, 2]
        assert "&" not in dump_yaml({"a": shared, "b": shared})
