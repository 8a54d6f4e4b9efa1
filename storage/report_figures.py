"""Drawings of the report as SVG: curves and bars, readable on a light and on a dark page.

Only figure objects are used, never pyplot, whose current figure is shared by the process. The same numbers give the
same bytes.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from storage.report_text import shorten, visible

INK, GRID = "#3d4854", "#d5dbe1"
COLOURS = ("#0f9d8f", "#e07a1f", "#5b7fe0", "#c9487b", "#8a6fd1", "#7a9a1d", "#2a9fd6", "#b0814a")
DASHES = ("-", "--", "-.", ":")
MARKS = (("o", 11), ("D", 6), ("s", 13), ("^", 8))
"""Shapes of marks with their sizes: marks on one point lie inside of each other and stay visible."""
Points = tuple[Sequence[float], Sequence[float]]
_WIDTH = 6.4
# A picture in a page cannot inherit its colours, but it knows the reader's scheme.
_DARK = (
    "<style>@media (prefers-color-scheme: dark) {"
    f'[style*="fill: {INK}"] {{fill: #b9c4cf !important}} [style*="stroke: {INK}"] {{stroke: #b9c4cf !important}} '
    f'[style*="stroke: {GRID}"] {{stroke: #333f4a !important}}'
    "}</style>"
)


def curve_figure(
    curves: Mapping[str, Points],
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    dots: bool = False,
    marks: Mapping[str, Points] | None = None,
    whole: bool = False,
) -> bytes:
    """Curves over one axis.

    Parameters
    ----------
    curves
        Name to (x, y) of equal length; a NaN leaves a gap.
    dots
        Whether to show the values that the lines join: where they are few.
    marks
        Name to (x, y) of single points to point out, each name with a hollow shape of its own; at most four names.
    whole
        Whether x counts things: no ticks between whole numbers.
    title, xlabel, ylabel
        Texts; any character is shown as it is, ``$`` too.

    Returns
    -------
    bytes
        SVG that starts with ``<svg``, without date, version or links other than name spaces.

    Raises
    ------
    ValueError
        x and y of different length, or more than four marks.
    """
    marks = marks or {}
    if len(marks) > len(MARKS):
        raise ValueError(f"expected at most {len(MARKS)} marks, got {len(marks)}: {', '.join(marks)}")
    for kind, points in (("curve", curves), ("mark", marks)):
        for name, (x, y) in points.items():
            if len(x) != len(y):
                raise ValueError(f"{kind} {name!r}: expected as many x as y, got {len(x)} and {len(y)}")
    figure, axes = _axes(title, height=3.6)
    lines: list[Line2D] = []
    for index, (x, y) in enumerate(curves.values()):
        style = DASHES[index // len(COLOURS) % len(DASHES)]
        point: dict[str, Any] = {"marker": ".", "markersize": 5} if dots else {}
        lines += axes.plot(x, y, color=COLOURS[index % len(COLOURS)], linestyle=style, linewidth=1.8, **point)
    for (shape, size), (x, y) in zip(MARKS, marks.values(), strict=False):
        hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.4}
        lines += axes.plot(x, y, linestyle="none", marker=shape, markersize=size, zorder=3, **hollow)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(_label(xlabel), parse_math=False)
    axes.set_ylabel(_label(ylabel), parse_math=False)
    axes.grid(color=GRID, linewidth=0.7)
    _legend(figure, lines, [*curves, *marks])
    return _svg(figure)


def bar_figure(series: Mapping[str, Sequence[float]], groups: Sequence[str], title: str, xlabel: str) -> bytes:
    """Lying bars: one group per entry of ``groups``, in it one bar per series.

    Parameters
    ----------
    series
        Name to values, one per group; a NaN gives no bar.
    groups
        Names of the groups, from the top.
    title, xlabel
        Texts; any character is shown as it is.

    Returns
    -------
    bytes
        SVG, as of :func:`curve_figure`; its height grows with the number of bars.

    Raises
    ------
    ValueError
        A series whose length is not that of the groups.
    """
    count = max(len(series), 1)
    figure, axes = _axes(title, height=min(1.2 + 0.1 * count + len(groups) * (0.16 * count + 0.18), 40))
    bars = []
    for index, (name, values) in enumerate(series.items()):
        if len(values) != len(groups):
            raise ValueError(f"series {name!r}: expected {len(groups)} values, got {len(values)}")
        places = [group + (index + 0.5) / count * 0.8 - 0.4 for group in range(len(groups))]
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(places, values, height=0.72 / count, color=colour)
        bars.append(Patch(color=colour))
    axes.set_yticks(range(len(groups)))
    axes.set_yticklabels([_label(name) for name in groups], parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_label(xlabel), parse_math=False)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    _legend(figure, bars, list(series))
    return _svg(figure)


def _axes(title: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_label(title, 70), parse_math=False, color=INK, fontsize=10, loc="left")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8.5)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    if len(names) < 2:
        return
    # The names are set afterwards: a legend leaves out those that begin with an underscore.
    legend = figure.legend(
        handles, list(map(str, range(len(names)))), loc="outside lower left", ncols=2, frameon=False, fontsize=8
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(_label(name, 48))
        text.set_color(INK)
        text.set_parse_math(False)


def _label(text: str, length: int = 40) -> str:
    return shorten(visible(text), length)


def _svg(figure: Figure) -> bytes:
    FigureCanvasSVG(figure)
    for artist in figure.findobj(Text):
        assert isinstance(artist, Text)
        artist.set_parse_math(False)
    buffer = io.StringIO()
    # Text stays text: the reader's fonts know letters that ours do not, which is also why that warning means nothing.
    with mpl.rc_context({"svg.hashsalt": "maskmill", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, separator, body = text.partition("<defs>")
    return (head + _DARK + separator + body).encode()
