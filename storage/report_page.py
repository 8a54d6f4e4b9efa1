"""The report: one HTML file that needs nothing else, no network, no script.

What is shown is described by frozen dataclasses; the template only lays them out. The same page gives the same bytes.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeGuard

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from storage.report_text import number, visible

Tone = Literal["plain", "good", "warn", "bad"]
Value = str | float | None

_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"<svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure at the top of the page."""

    label: str
    value: str
    note: str = ""
    tone: Tone = "plain"


class Cell(NamedTuple):
    """A table cell as it is shown; ``share`` is the length of its bar, 0 to 1."""

    text: str
    numeric: bool
    best: bool = False
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of numbers.

    ``highlight`` and ``lowest`` are columns whose largest or smallest value is bold, among the rows that have the same
    in the column ``group`` (a split) where there is one. Rows in ``reference`` (floors, oracles) are shown, but take no
    part in that. A highlighted column of fractions gets bars.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    highlight: frozenset[int] = frozenset()
    lowest: frozenset[int] = frozenset()
    reference: frozenset[int] = frozenset()
    group: int | None = None

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: expected {len(self.columns)} cells, row {index} has {len(row)}"
                )

    @property
    def numeric(self) -> list[bool]:
        """Columns that hold numbers or nothing, at least one number."""
        return [bool(self._numbers(column)) and not self._has_text(column) for column in range(len(self.columns))]

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows as they are shown."""
        numeric, groups = self.numeric, self._groups
        best = {group: [self._best(column, group) for column in range(len(self.columns))] for group in {*groups}}
        bars = {column for column in self.highlight if self._is_fractions(column)}
        return [
            [
                Cell(
                    text=number(value),
                    numeric=numeric[column],
                    best=value is not None and value == best[groups[index]][column] and index not in self.reference,
                    share=value if column in bars and _is_number(value) else None,
                )
                for column, value in enumerate(row)
            ]
            for index, row in enumerate(self.rows)
        ]

    @property
    def _groups(self) -> list[Value]:
        """What the value of each row is compared within."""
        return [None if self.group is None else row[self.group] for row in self.rows]

    def _numbers(self, column: int) -> list[float]:
        return [value for value in (row[column] for row in self.rows) if _is_number(value)]

    def _has_text(self, column: int) -> bool:
        return any(isinstance(row[column], str) for row in self.rows)

    def _is_fractions(self, column: int) -> bool:
        return self.numeric[column] and all(0 <= value <= 1 for value in self._numbers(column))

    def _best(self, column: int, group: Value) -> float | None:
        same = [index for index, one in enumerate(self._groups) if one == group and index not in self.reference]
        values = [value for value in (self.rows[index][column] for index in same) if _is_number(value)]
        if len(values) < 2 or not self.numeric[column] or column not in self.highlight | self.lowest:
            return None
        return max(values) if column in self.highlight else min(values)


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing: SVG, PNG or JPEG bytes. ``alt`` says what it shows; default: title and note."""

    title: str
    data: bytes = field(repr=False)
    note: str = ""
    alt: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class OverlayCard:
    """One image of the data set in several views, PNG or JPEG bytes with their labels."""

    title: str
    images: Sequence[tuple[str, bytes]] = field(repr=False)
    caption: str = ""
    badge: str = ""
    tone: Tone = "plain"


class Quarantined(NamedTuple):
    """An image that was set aside."""

    image_id: str
    path: str
    stage: str
    reason: str


class Swatch(NamedTuple):
    """What a colour in the examples stands for; ``colour`` is (red, green, blue), 0 to 255."""

    name: str
    rgb: tuple[int, int, int]

    @property
    def colour(self) -> str:
        """The colour as CSS writes it."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


@dataclass(frozen=True, slots=True)
class ReportPage:
    """Everything on the page; empty parts are left out, save quarantine."""

    title: str
    subtitle: str = ""
    summary: Sequence[Tile] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    overlays: Sequence[OverlayCard] = ()
    legend: Sequence[Swatch] = ()
    quarantine: Sequence[Quarantined] = ()
    warnings: Sequence[str] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def data_uri(data: bytes) -> str:
    """The bytes of a PNG, JPEG or SVG as a URI.

    Raises
    ------
    ValueError
        Bytes of another kind.
    """
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    raise ValueError(f"expected PNG, JPEG or SVG bytes, got {data[:8]!r}…")


def render_report(page: ReportPage) -> str:
    """The page as one HTML text; whatever the data holds is shown as text and never becomes markup.

    Raises
    ------
    ValueError
        An image that is neither PNG, JPEG nor SVG.
    """
    return _environment().get_template("report.html.j2").render(page=page)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("storage"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def _finalize(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
