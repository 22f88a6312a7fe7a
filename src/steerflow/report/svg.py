"""Figures as inline SVG that follow the page's theme: matplotlib draws them with stand-in colours, CSS decides the real ones.

No pyplot, so no global state: every figure is a ``matplotlib.figure.Figure`` of its own, drawn under ``drawing()``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from steerflow.report.read import USUAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins: matplotlib writes them into the file, ``theme`` replaces them by the page's CSS variables.
INK, MUTED, RULE, PAPER, SHADE, CHOSEN = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
SERIES = tuple(f"#0{n}0{n}1{n}" for n in range(8))
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper", SHADE: "--shade", CHOSEN: "--chosen",
    **{stand_in: f"--series-{n}" for n, stand_in in enumerate(SERIES)},
}  # fmt: skip

# A mark in an SVG of this many units keeps its text readable on a phone, where a panel is about 330 pixels wide.
WIDTH, HEIGHT = 380, 260


@dataclass(frozen=True)
class Mark:
    """How a series looks: a colour and, for readers who cannot tell colours apart, a marker and a dash pattern."""

    colour: str
    marker: str
    dash: Any = "-"


_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")


def marks(names: list[str]) -> dict[str, Mark]:
    """A mark for each name; the usual methods always get the same ones, others take the rest in order.

    The first, cloning's, keeps its colour to itself; the others repeat after 56, as 7 colours and 8 markers do.
    """
    others = [n for n in sorted(set(names)) if n not in USUAL]
    order = [*USUAL, *others]
    cloning, *colours = SERIES
    return {
        n: Mark(colours[(i - 1) % len(colours)] if i else cloning, _MARKERS[i % len(_MARKERS)])
        for i, n in enumerate(order)
        if n in set(names)
    }


@contextmanager
def drawing() -> Iterator[None]:
    """The figures' common style, in force inside the context only."""
    import matplotlib as mpl

    style: dict[Any, Any] = {
        "svg.fonttype": "none", "text.parse_math": False,
        "svg.hashsalt": "steerflow", "font.family": "DejaVu Sans", "font.size": 11,
        "text.color": INK, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.8, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": 12, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.7, "axes.facecolor": "none",
        "figure.facecolor": "none", "savefig.facecolor": "none", "lines.linewidth": 1.8, "lines.solid_capstyle": "round",
        "xtick.major.size": 3, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
        "path.simplify_threshold": 0.3,
    }  # fmt: skip
    with mpl.rc_context(style):
        yield


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """An empty figure of ``width`` by ``height`` SVG units that leaves room for its labels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def horizontal_grid(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` element for a page.

    ``name`` is unique on the page and prefixes every id; ``title`` and ``description`` are what a screen reader says.
    Equal figures give equal text: ids are salted, no date is written.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return theme(buffer.getvalue(), name, title, description)


def theme(text: str, name: str, title: str, description: str) -> str:
    """matplotlib's SVG file as an inline element: unique ids, scalable, labelled, colours from CSS variables."""
    body = text[text.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]+)"', body)
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    # The file's own style element would hold for the whole page; report.html has the same rule for figures only.
    inner = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\bid="', f'id="{name}-', inner)
    inner = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", inner)
    inner = inner.replace("xlink:href=", "href=")
    inner = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px) [^;\"]*", r"font: \1\2 var(--sans)", inner)
    for stand_in, variable in _VARIABLES.items():
        inner = inner.replace(stand_in, f"var({variable})")
    box = view_box.group(1) if view_box else f"0 0 {WIDTH} {HEIGHT}"
    label = escape(title, quote=True)
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{label}" style="max-width:{1.4 * float(box.split()[2]):.0f}px">'
        f"<title>{label}</title><desc>{escape(description)}</desc>{_lines(inner)}</svg>"
    )


def swatch(mark: Mark, *, hollow: bool = False, dashed: bool = False) -> str:
    """A legend's sample of a series, drawn like in the figures."""
    colour = f"var({_VARIABLES[mark.colour]})"
    shapes = {
        "o": '<circle cx="14" cy="7" r="4"/>',
        "s": '<rect x="10.4" y="3.4" width="7.2" height="7.2"/>',
        "D": '<path d="M14 2l5 5-5 5-5-5z"/>',
        "^": '<path d="M14 2.4l4.6 8.4h-9.2z"/>',
        "v": '<path d="M14 11.6l4.6-8.4h-9.2z"/>',
        "P": '<path d="M12.3 2h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3H9V5.3h3.3z"/>',
        "X": '<path d="M10 3l8 8m0-8l-8 8" stroke-width="3"/>',
        "p": '<path d="M14 2.2l4.8 3.5-1.8 5.6h-6l-1.8-5.6z"/>',
    }
    dash = ' stroke-dasharray="3 2.5"' if dashed else ""
    fill = "var(--paper)" if hollow else colour
    return (
        f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true"><path d="M1 7h26" stroke="{colour}" stroke-width="2"{dash}/>'
        f'<g fill="{fill}" stroke="{colour}" stroke-width="1.5">{shapes[mark.marker]}</g></svg>'
    )


def _lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
