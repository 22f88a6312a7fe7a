"""Plots of analyses as PNG, in the style and the light colours of the report's figures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerflow.report.read import USUAL
from steerflow.report.svg import (
    CHOSEN,
    HEIGHT,
    INK,
    MUTED,
    PAPER,
    RULE,
    SERIES,
    SHADE,
    WIDTH,
    Mark,
    drawing,
    horizontal_grid,
    marks,
    new_figure,
)
from steerflow.report.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What the report's page puts in place of the figures' stand-in colours; a test keeps both equal.
LIGHT = {
    INK: "#1b2025", MUTED: "#5b656f", RULE: "#dcdfe0", PAPER: "#fdfdfb", SHADE: "#0b5c8f", CHOSEN: "#b3261e",
    **dict(zip(SERIES, ("#6b7280", "#0b67b2", "#c05a00", "#00785a", "#a63d84", "#7a6a00", "#4b4ea8", "#8a4b2a"), strict=True)),
}  # fmt: skip
_HOLLOW = "hollow: not test episodes"
_DOTS_PER_INCH = 144
_PERCENT = ([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])


@dataclass(frozen=True)
class Mean:
    """A mark: where it stands, its interval, and what is written beside it. Hollow: not of test episodes; ``chosen``, in a
    ring: the strength that tuning episodes chose."""

    x: float | str
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    hollow: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines of marks over one axis. An ``x`` that is a text stands at a place of its own, in order of appearance."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[Mean]]
    log: bool = False
    # The y axis is a success rate.
    success: bool = False
    # Places are measured too: marks stand exactly there.
    scatter: bool = False
    # Dotted levels across the panel: (y, name).
    levels: tuple[tuple[float, str], ...] = ()


def draw(rows: Sequence[Sequence[Panel]], heading: str) -> bytes:
    """A PNG file of rows of panels, with one legend for all; a name looks the same in all of them."""
    names = list(dict.fromkeys(name for row in rows for panel in row for name in panel.lines))
    look = _looks(names)
    columns = max(map(len, rows))
    # A column of panels is as wide as 85 letters of the legend, of which a handle and its margins take 8.
    legend_columns = max(1, min(2 * columns, 85 * columns // (max(map(len, [*names, _HOLLOW])) + 8)))
    lines = -(-len(names) // legend_columns)
    with _light():
        figure = new_figure(1.15 * WIDTH * columns, 1.1 * HEIGHT * len(rows) + 34 + 17 * lines)
        grid: Any = figure.subplots(len(rows), columns, squeeze=False)
        for axes_row, row in zip(grid, rows, strict=True):
            for i, axes in enumerate(axes_row):
                if i < len(row):
                    _panel(axes, row[i], look)
                else:
                    axes.set_axis_off()
        figure.suptitle(heading, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        handles = [_handle(look[name], name) for name in names]
        means = [mean for row in rows for panel in row for line in panel.lines.values() for mean in line]
        if any(mean.hollow for mean in means):
            handles.append(_handle(Mark(INK, "o"), _HOLLOW, hollow=True))
        if any(mean.chosen for mean in means):
            handles.append(_handle(Mark(CHOSEN, "o"), "ring: chosen on tuning episodes", hollow=True))
        if handles:
            figure.legend(handles=handles, loc="outside lower left", ncols=legend_columns, frameon=False, fontsize=10)
        buffer = io.BytesIO()
        # No software and no date, so that equal data give an equal file.
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: Axes, panel: Panel, look: dict[str, Mark]) -> None:
    means = [mean for line in panel.lines.values() for mean in line]
    places = list(dict.fromkeys(mean.x for mean in means if isinstance(mean.x, str)))
    # Marks at the same place stand aside of each other, so that their intervals do not cover each other.
    middle = (len(panel.lines) - 1) / 2
    aside = {name: 0.0 if panel.scatter else i - middle for i, name in enumerate(panel.lines)}
    numbers = sorted({float(mean.x) for mean in means if not isinstance(mean.x, str)})
    # At least this much, so that marks at one place stand aside of each other too.
    span = max(numbers[-1] - numbers[0], 0.1) if numbers else 1.0
    log = panel.log and bool(numbers)
    ratio = max(numbers[-1] / numbers[0], 2.0) if log else 1.0

    def at(name: str, x: float | str) -> float:
        if isinstance(x, str):
            return places.index(x) + 0.11 * aside[name]
        return x * ratio ** (0.008 * aside[name]) if log else x + 0.008 * span * aside[name]

    for name, line in panel.lines.items():
        colour, marker = LIGHT[look[name].colour], look[name].marker
        x, y = [at(name, mean.x) for mean in line], [mean.y for mean in line]
        for place, mean in zip(x, line, strict=True):
            if mean.low is not None and mean.high is not None:
                axes.vlines(place, mean.low, mean.high, color=colour, linewidth=1.1 if mean.hollow else 1.8, zorder=3)
            face = LIGHT[PAPER] if mean.hollow else colour
            axes.plot([place], [mean.y], marker, markersize=5.5, markerfacecolor=face, markeredgecolor=colour, zorder=5)
            if mean.chosen:
                axes.plot(place, mean.y, "o", markersize=13, markerfacecolor="none", markeredgecolor=LIGHT[CHOSEN])
            if mean.note:
                axes.annotate(
                    mean.note, (place, mean.y), (5, 4), textcoords="offset points", fontsize=8, color=LIGHT[MUTED]
                )
        if not places:
            axes.plot(x, y, color=colour, linestyle=look[name].dash, linewidth=1.5, zorder=4)
    for level, name in panel.levels:
        axes.axhline(level, color=LIGHT[MUTED], linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
        axes.annotate(name, (1, level), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha="right", fontsize=9, color=LIGHT[MUTED])  # fmt: skip
    if log:
        axes.set_xscale("log")
        axes.set_xlim(numbers[0] / ratio**0.06, numbers[-1] * ratio**0.06)
        axes.set_xticks(ticks := _apart(numbers, ratio), [count(x) if x >= 1000 else f"{x:.3g}" for x in ticks])
        axes.set_xticks([], minor=True)
    elif numbers and not panel.scatter:
        axes.set_xticks(numbers, [f"{x:g}" for x in numbers])
    if places:
        axes.set_xticks(range(len(places)), places, rotation=0 if sum(map(len, places)) < 40 else 15)
        axes.set_xlim(-0.6, len(places) - 0.4)
    if panel.success:
        axes.set(ylim=(-0.04, 1.04))
        axes.set_yticks(*_PERCENT)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    axes.set_title(panel.title)
    horizontal_grid(axes)


def _apart(numbers: Sequence[float], ratio: float) -> list[float]:
    """Those of the rising ``numbers`` that have room for their label on a log axis."""
    kept: list[float] = []
    for number in numbers:
        if not kept or number / kept[-1] > ratio**0.1:
            kept.append(number)
    return kept


def _looks(names: Sequence[str]) -> dict[str, Mark]:
    """The report's marks for the usual methods; the other names take those that are left, in order."""
    usual = marks([name for name in names if name in USUAL])
    every = [Mark(SERIES[i], marker, dash) for dash in ("-", (0, (4, 2)), (0, (1, 1.5)))
             for i, marker in enumerate(("o", "s", "D", "^", "v", "P", "X", "p"))]  # fmt: skip
    left = iter([mark for mark in every if mark not in usual.values()] * (1 + len(names) // len(every)))
    return {name: usual[name] if name in usual else next(left) for name in names}


def _handle(mark: Mark, name: str, hollow: bool = False) -> Any:
    from matplotlib.lines import Line2D

    colour = LIGHT[mark.colour]
    return Line2D(
        [], [], color=colour, marker=mark.marker, linestyle="none" if hollow else mark.dash, label=name, markersize=5.5,
        markerfacecolor=LIGHT[PAPER] if hollow else colour,
    )  # fmt: skip


@contextmanager
def _light() -> Iterator[None]:
    import matplotlib as mpl

    with drawing():
        colours: Any = {name: LIGHT[str(value)] for name, value in mpl.rcParams.items() if str(value) in LIGHT}
        with mpl.rc_context({**colours, "figure.facecolor": LIGHT[PAPER], "savefig.facecolor": LIGHT[PAPER]}):
            yield
