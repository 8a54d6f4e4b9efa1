import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from storage.report_figures import curve_figure
from storage.report_page import (
    Figure,
    OverlayCard,
    Quarantined,
    ReportPage,
    Table,
    Tile,
    Value,
    data_uri,
    render_report,
)

HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>\0\ud800{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "link"}


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def page(text: str = "text") -> ReportPage:
    """A page that shows a text wherever a page shows one."""
    return ReportPage(
        title=text,
        subtitle=text,
        summary=[Tile(text, text, text, "good")],
        tables=[Table(text, [text, "miou"], [[text, 0.25], [text, None]], note=text, highlight=frozenset({1}))],
        figures=[Figure(text, curve_figure({text: ([0, 1], [0, 1])}, text, text, text), note=text)],
        overlays=[OverlayCard(text, [(text, picture("PNG")), (text, picture("JPEG"))], text, text, "bad")],
        quarantine=[Quarantined(text, text, text, text)],
        warnings=[text],
        provenance={text: text},
    )


class Tags(HTMLParser):
    """Collects tags and their attributes, and checks that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class TestRenderReport:
    def test_smoke(self) -> None:
        tags = Tags(render_report(page()))
        assert tags.open == []
        anchors = {attrs["href"] for tag, attrs in tags.found if tag == "a"}
        assert anchors == {f"#{attrs['id']}" for _, attrs in tags.found if attrs.get("id")}

    def test_hostile_text_stays_text(self) -> None:
        plain, hostile = Tags(render_report(page())), Tags(render_report(page(HOSTILE)))
        assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
        assert [sorted(attrs) for _, attrs in hostile.found] == [sorted(attrs) for _, attrs in plain.found]
        assert "<script>alert('1')</script>" in hostile.text
        assert r"\x00\ud800{{ 7 * 7 }}" in hostile.text
        render_report(page(HOSTILE)).encode()

    def test_needs_nothing_from_elsewhere(self) -> None:
        html = render_report(page())
        assert re.findall(r"https?:|//|@import|url\(", re.sub(r"base64,[^\"]*", "", html)) == []
        tags = Tags(html)
        assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in tags.found}
        assert all((attrs["src"] or "").startswith("data:image/") for tag, attrs in tags.found if tag == "img")
        assert "default-src 'none'" in html

    def test_every_image_has_a_text(self) -> None:
        images = [attrs for tag, attrs in Tags(render_report(page())).found if tag == "img"]
        assert len(images) == 3
        assert all(attrs["alt"] for attrs in images)

    def test_same_page_same_bytes(self) -> None:
        assert render_report(page()) == render_report(page())

    def test_empty_parts_are_left_out(self) -> None:
        html = render_report(ReportPage("Nothing"))
        assert [attrs["href"] for tag, attrs in Tags(html).found if tag == "a"] == ["#quarantine"]
        assert "No image was set aside." in html

    def test_both_schemes_and_paper(self) -> None:
        html = render_report(ReportPage("Nothing"))
        assert "prefers-color-scheme: dark" in html
        assert "@media print" in html

    def test_refuses_other_images(self) -> None:
        with pytest.raises(ValueError, match="expected PNG, JPEG or SVG bytes"):
            render_report(ReportPage("Page", overlays=[OverlayCard("a", [("image", b"GIF89a")])]))


class TestTable:
    def table(self) -> Table:
        rows: list[list[Value]] = [
            ["cam", 0.5, 3.0, 12, None],
            ["scg", 0.7, 1.5, 9, 1.0],
            ["oracle", 0.9, 0.1, 99, 2.0],
        ]
        return Table(
            "T",
            ["method", "miou", "lpe", "images", "px"],
            rows,
            highlight=frozenset({1, 4}),
            lowest=frozenset({2}),
            reference=frozenset({2}),
        )

    def test_best_leaves_out_reference_rows(self) -> None:
        best = [[cell.best for cell in row] for row in self.table().cells]
        assert best == [[False] * 5, [False, True, True, False, False], [False] * 5]

    def test_equal_values_are_both_best(self) -> None:
        cells = Table("T", ["x"], [[1.0], [1.0], [0.0]], highlight=frozenset({0})).cells
        assert [row[0].best for row in cells] == [True, True, False]

    def test_one_value_competes_with_nothing(self) -> None:
        assert not Table("T", ["x"], [[1.0]], highlight=frozenset({0})).cells[0][0].best

    def test_text_numbers_and_bars(self) -> None:
        table = self.table()
        assert table.numeric == [False, True, True, True, True]
        assert [cell.text for cell in table.cells[0]] == ["cam", "0.500", "3.000", "12", "–"]
        assert [cell.share for cell in table.cells[0]] == [None, 0.5, None, None, None]

    def test_best_of_each_group(self) -> None:
        rows = [["val", 0.1], ["val", 0.2], ["train", 0.9], ["train", 0.8], ["test", 0.5]]
        cells = Table("T", ["split", "x"], rows, highlight=frozenset({1}), group=0).cells
        assert [row[1].best for row in cells] == [False, True, True, False, False]

    def test_nan_is_never_best(self) -> None:
        cells = Table("T", ["x"], [[float("nan")], [0.1], [0.2]], highlight=frozenset({0})).cells
        assert [row[0].best for row in cells] == [False, False, True]
        assert cells[0][0] == ("–", True, False, None)

    def test_refuses_short_rows(self) -> None:
        with pytest.raises(ValueError, match="table 'T': expected 2 cells, row 1 has 1"):
            Table("T", ["a", "b"], [[1, 2], [1]])


class TestDataUri:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_smoke(self, kind: str) -> None:
        assert data_uri(picture(kind)).startswith(f"data:image/{kind.lower()};base64,")
