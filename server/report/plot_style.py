"""Style of the plots: colours, fonts, layout helpers, conversion to inline SVG.

One unit of a figure is one CSS pixel at the page's full width, so that sizes here and in the
page's style sheet are the same sizes. Text stays text and takes the page's own typeface. Colours
become variables of the style sheet, which has other values for them where a reader prefers dark
pages. Every plot is drawn twice, for wide pages and for telephones.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any, TypeAlias, TypeVar

import matplotlib
import matplotlib.ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#1d2530"
SOFT = "#5b6675"
FAINT = "#c9d0d9"
ACCENT = "#332288"
SERIES = (
    # Paul Tol's "muted" scheme: told apart with any common colour blindness.
    "#332288",
    "#CC6677",
    "#44AA99",
    "#DDAA33",
    "#88CCEE",
    "#882255",
    "#117733",
    "#AA4499",
    "#999933",
)
PAGE = "#ffffff"
"""What is behind a plot."""
GRID = "#edf0f3"
PAGE_WIDTH = 1000
"""Pixels."""
NARROW_WIDTH = 366
"""Pixels of a page on a telephone, which is 400 wide with its margins."""
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    FAINT: "--faint",
    PAGE: "--page",
    GRID: "--grid",
    **{colour.lower(): f"--series-{index}" for index, colour in enumerate(SERIES)},
}
"""Variable of the style sheet for each colour."""

_narrow: ContextVar[bool] = ContextVar("narrow", default=False)

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 12,
    "text.color": INK,
    # An institution may be called "$x$"; that is a name and not mathematics.
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 12,
    "axes.titlesize": 12.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": FAINT,
    "xtick.labelcolor": SOFT,
    "xtick.labelsize": 11.5,
    "ytick.color": FAINT,
    "ytick.labelcolor": SOFT,
    "ytick.labelsize": 11.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 12,
}
_UNITS_PER_INCH = 72
_Item = TypeVar("_Item")
Series: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""The x and the y of a line."""


@contextmanager
def style(name: str) -> Iterator[None]:
    """Draw and save within: settings hold inside only, and ids depend on ``name`` alone."""
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # A name in a script that the measuring font lacks: the reader's browser will have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def both_widths(draw: Callable[[], str | None]) -> str | None:
    """What ``draw`` returns for a wide page and for a narrow one; a reader sees one of the two."""
    wide = draw()
    if wide is None:
        return None
    before = _narrow.set(True)
    try:
        return f'<div class="wide">{wide}</div><div class="narrow">{draw()}</div>'
    finally:
        _narrow.reset(before)


def by_width(wide: int, narrow: int = 1) -> int:
    """A number for the page that is drawn for: panels beside one another, say."""
    return narrow if _narrow.get() else wide


def variable(colour: str) -> str:
    """``var(--ink)``: a colour of the plots in a style; others stay as they are."""
    name = VARIABLES.get(colour.lower())
    return colour if name is None else f"var({name})"


def figure(height: float) -> Figure:
    """A blank figure, as wide as the page and ``height`` pixels high."""
    width = by_width(PAGE_WIDTH, NARROW_WIDTH)
    size = (width / _UNITS_PER_INCH, height / _UNITS_PER_INCH)
    # Panels above one another need more room: a title is not to touch the panel above it.
    layout = ConstrainedLayoutEngine(hspace=by_width(2, 6) / 100)
    blank = Figure(figsize=size, layout=layout)
    blank.patch.set_visible(False)
    return blank


def legend_of_lines(drawn: Figure, keys: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend beside the plot, or below it on a narrow page."""
    if _narrow.get():
        drawn.legend(
            keys, [short(label, 18) for label in labels], loc="outside lower left", ncols=2
        )
    else:
        drawn.legend(keys, labels, loc="outside right upper")


def inline_svg(drawn: Figure, name: str, label: str) -> str:
    """``drawn`` as an SVG element to stand inside a page.

    ``name`` begins every id, so that several stand in one page; ``label`` is for those who
    listen to the page. Colours are variables of the page's style sheet.
    """
    out = io.StringIO()
    blank = {"Creator": None, "Date": None, "Format": None, "Type": None}
    # `Figure.savefig` draws everything twice, the first time for the layout alone.
    FigureCanvasSVG(drawn).print_svg(out, metadata=blank)  # type: ignore[no-untyped-call]
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: variable(found[0]), text)
    name = f"{name}-narrow" if _narrow.get() else name
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    opening = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" '
        f'{box[0] if box else ""} role="img" aria-label="{escape(label)}"'
    )
    return f"{opening}>{body}".strip()


def thin(points: Sequence[_Item], most: int = 200) -> Sequence[_Item]:
    """At most ``most`` of ``points``, evenly spread, first and last among them."""
    if len(points) <= most:
        return points
    last = len(points) - 1
    return [points[round(index * last / (most - 1))] for index in range(most)]


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """``heights`` moved apart by at least ``gap``, within ``[low, high]`` as far as they fit."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed: list[float] = []
    for index in order:
        floor = placed[-1] + gap if placed else low
        placed.append(max(heights[index], floor))
    ceiling = high
    for rank in reversed(range(len(placed))):
        placed[rank] = min(placed[rank], ceiling)
        ceiling = placed[rank] - gap
    moved = [0.0] * len(heights)
    for rank, index in enumerate(order):
        moved[index] = placed[rank]
    return moved


def short(name: str, most: int = 22) -> str:
    """``name`` on one line of at most ``most`` letters."""
    line = " ".join(name.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def thousands(axes: Axes, ticks: int = 5) -> None:
    """Whole numbers along x, with separators."""
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(ticks, integer=True))
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
