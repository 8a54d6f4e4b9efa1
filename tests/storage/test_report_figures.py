import re
from typing import ClassVar
from xml.etree import ElementTree

import pytest

from storage.report_figures import INK, MARKS, bar_figure, curve_figure

HOSTILE = ["<script>alert(1)</script>", r"$\frac{", "$x$", "_hidden", "🦊", "zero\0byte", "x" * 400, "", "漢字 & <"]


def texts(svg: bytes) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def curves() -> bytes:
    return curve_figure({"a": ([0, 1, 2], [0.1, 0.5, 0.2]), "b": ([0, 2], [0.3, 0.1])}, "Title", "x axis", "y axis")


class TestCurveFigure:
    def test_smoke(self) -> None:
        svg = curves()
        assert svg.startswith(b"<svg")
        assert all(word in texts(svg) for word in ("Title", "x axis", "y axis", "a", "b"))

    def test_same_numbers_same_bytes(self) -> None:
        assert curves() == curves()

    def test_names_no_place_in_the_network(self) -> None:
        links = set(re.findall(rb"https?://[^\"'\s<]+", curves()))
        assert links <= {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1999/xlink"}

    def test_knows_the_dark_scheme(self) -> None:
        assert b"prefers-color-scheme: dark" in curves()

    def test_hostile_names(self) -> None:
        svg = curve_figure({name: ([0, 1], [0, 1]) for name in HOSTILE}, *HOSTILE[:3])
        seen = texts(svg)
        assert b"<script" not in svg
        assert all(name in seen for name in (*HOSTILE[:5], r"zero\x00byte", "漢字 & <"))

    def test_gaps_and_nothing(self) -> None:
        assert curve_figure({"a": ([0, 1, 2], [1.0, float("nan"), 2.0])}, "", "", "")
        assert curve_figure({}, "", "", "")

    def test_no_ticks_between_whole_numbers(self) -> None:
        line = {"loss": ([1, 2, 3], [0.3, 0.2, 0.1])}
        assert "1.5" in texts(curve_figure(line, "Title", "epoch", "y"))
        assert "1.5" not in texts(curve_figure(line, "Title", "epoch", "y", whole=True))

    def test_refuses_other_lengths(self) -> None:
        with pytest.raises(ValueError, match="curve 'a': expected as many x as y, got 2 and 1"):
            curve_figure({"a": ([0, 1], [0])}, "", "", "")
        with pytest.raises(ValueError, match="mark 'best': expected as many x as y, got 0 and 1"):
            curve_figure({}, "", "", "", marks={"best": ([], [0])})


class TestMarks:
    LINE: ClassVar = {"val": ([0, 10, 20], [0.1, 0.5, 0.2])}

    def draw(self, **marks: tuple[list[float], list[float]]) -> bytes:
        return curve_figure(self.LINE, "Title", "x", "y", marks=marks)

    def test_smoke(self) -> None:
        svg = self.draw(chosen=([10], [0.5]), oracle=([10], [0.5]))
        assert all(word in texts(svg) for word in ("val", "chosen", "oracle"))
        assert svg == self.draw(chosen=([10], [0.5]), oracle=([10], [0.5]))

    def test_marks_of_one_point_differ(self) -> None:
        one, both = self.draw(chosen=([10], [0.5])), self.draw(chosen=([10], [0.5]), oracle=([10], [0.5]))
        assert both.count(b"<use") > one.count(b"<use")
        assert len({shape for shape, _ in MARKS}) == len({size for _, size in MARKS}) == len(MARKS)

    def test_are_hollow_and_in_ink(self) -> None:
        # The dark scheme replaces the ink by its style attribute; a filled mark would hide the line below.
        styles = re.findall(r'<use [^>]*style="([^"]*)"', self.draw(chosen=([10], [0.5])).decode())
        assert any("fill-opacity: 0" in style and f"stroke: {INK}" in style for style in styles)

    def test_no_marks_same_bytes(self) -> None:
        assert self.draw() == curve_figure(self.LINE, "Title", "x", "y")

    def test_gaps_and_hostile_names(self) -> None:
        svg = self.draw(**{HOSTILE[0]: ([10], [float("nan")]), "_hidden": ([], [])})
        assert b"<script" not in svg
        assert "_hidden" in texts(svg)

    def test_dots(self) -> None:
        assert curve_figure(self.LINE, "", "", "", dots=True).count(b"<use") > self.draw().count(b"<use")

    def test_refuses_more_than_there_are_shapes(self) -> None:
        with pytest.raises(ValueError, match="expected at most 4 marks, got 5: a, b, c, d, e"):
            self.draw(**{name: ([0], [0]) for name in "abcde"})


class TestBarFigure:
    def test_smoke(self) -> None:
        svg = bar_figure({"one": [0.1, 0.2], "two": [0.3, float("nan")]}, ["cat", "dog"], "Title", "IoU")
        assert svg.startswith(b"<svg")
        assert all(word in texts(svg) for word in ("one", "two", "cat", "dog", "IoU"))

    def test_same_numbers_same_bytes(self) -> None:
        first, second = (bar_figure({"a": [1, 2]}, ["x", "y"], "", "") for _ in range(2))
        assert first == second

    def test_hostile_names(self) -> None:
        svg = bar_figure({name: [0.5] * len(HOSTILE) for name in HOSTILE}, HOSTILE, "$", "$$")
        assert b"<script" not in svg
        assert r"$\frac{" in texts(svg)

    def test_refuses_other_lengths(self) -> None:
        with pytest.raises(ValueError, match="series 'a': expected 2 values, got 1"):
            bar_figure({"a": [1]}, ["x", "y"], "", "")
