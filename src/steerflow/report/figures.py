"""The plots of learning and of the critic's values. A ``Plot`` is a figure of the report, made of inline SVG panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steerflow.evaluate.rows import EpisodeRow
from steerflow.report import words
from steerflow.report.read import Arm, is_number
from steerflow.report.svg import (
    HEIGHT,
    INK,
    MUTED,
    PAPER,
    SERIES,
    WIDTH,
    Mark,
    drawing,
    horizontal_grid,
    marks,
    new_figure,
    swatch,
    to_svg,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More dots or points than this in one series show no more and make the file heavy.
_MOST_DOTS, _MOST_POINTS = 300, 300
# The height of a line of an arm's name, in arms.
_LINE = 0.24


@dataclass(frozen=True)
class Plot:
    """A figure of the report: panels that flow with the page's width, a legend, and a caption on how to read them."""

    name: str
    title: str
    panels: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    caption: str


def q_distribution(name: str, task: str, arms: Sequence[tuple[Arm, list[EpisodeRow]]]) -> Plot | None:
    """The critic's values of the actions taken, a mark per test episode, for each of ``arms``: at the first decision, and
    averaged over the episode."""
    drawn = [(a, [r for r in rows if r.q is not None and r.q_first is not None]) for a, rows in arms]
    drawn = [(a, rows) for a, rows in drawn if rows]
    if not drawn:
        return None
    with drawing():
        panels = (
            _values_panel(f"{name}-0", "first decision", "Q at the first state, the same for all arms", drawn, _first),
            _values_panel(f"{name}-1", "whole episode", "Q, mean over the episode's decisions", drawn, _overall),
        )
    told = any(r.success is not None for _, rows in drawn for r in rows)
    legend = ((swatch(Mark(INK, "o")), "succeeded"), (swatch(Mark(INK, "o"), hollow=True), "failed"))
    caption = (
        f"What the critic thinks of the actions taken on {task}: each mark is one test episode "
        f"({span(sorted({len(rows) for _, rows in drawn}))} per arm); the bar spans the middle half, its tick is the median. "
        "First decisions are taken in the same states, so there a shift to the right is the steering's doing alone; over the "
        "whole episode, states differ too. A shift to the right without more success would mean that steering exploits the "
        "critic's errors."
    )
    return Plot(name, "The critic's value of the actions taken", panels, legend if told else (), caption)


def learning_curves(name: str, metrics: Sequence[dict[str, Any]]) -> Plot | None:
    """A panel per learner and loss; training solid, validation dashed. Several critics share a panel."""
    groups: dict[tuple[str, str], dict[tuple[str, str], list[tuple[float, float]]]] = {}
    for row in metrics:
        kind, _, of = str(row["learner"]).partition("/")
        for key, value in row.items():
            if "loss" in key and is_number(value) and is_number(row["step"]):
                curves = groups.setdefault((kind, key), {})
                curves.setdefault((of, str(row.get("split", "train"))), []).append((float(row["step"]), float(value)))
    if not groups:
        return None
    order = sorted(groups, key=lambda g: (g[0] != "policy", g))
    members = sorted({of for curves in groups.values() for of, _ in curves if of})
    with drawing():
        panels = [_curve_panel(f"{name}-{i}", *group, groups[group], members) for i, group in enumerate(order)]
    validated = any(split != "train" for curves in groups.values() for _, split in curves)
    legend = [(swatch(Mark(INK, "o")), "training data")]
    if validated:
        legend.append((swatch(Mark(INK, "o"), hollow=True, dashed=True), "validation data"))
    if len(members) > 1:
        legend += [(swatch(_member_mark(members, of)), of) for of in members]
    caption = (
        "Losses during training against gradient updates; the mark is the last value. "
        + ("A validation curve that turns upwards while training goes on falling is overfitting. " if validated else
           "There is no validation loss in this run. ")
        + "A critic's loss need not fall: its target moves with it."
    )  # fmt: skip
    return Plot(name, "Training and validation losses", tuple(panels), tuple(legend), caption)


def _values_panel(
    name: str,
    title: str,
    label: str,
    drawn: Sequence[tuple[Arm, list[EpisodeRow]]],
    value: Callable[[EpisodeRow], float],
) -> str:
    looks = marks([a.method for a, _ in drawn])
    medians = [words.number(float(np.median([value(r) for r in rows]))) for _, rows in drawn]
    labels = [words.lines(arm.arm) for arm, _ in drawn]
    more = np.array([_LINE * label.count("\n") for label in labels])
    places = -np.arange(len(drawn)) - np.cumsum(more)
    figure = new_figure(WIDTH, 62 * (1 + len(drawn) + more.sum()))
    axes = figure.subplots()
    for i, (arm, rows) in enumerate(drawn):
        _dots(axes, places[i], rows, value, looks[arm.method])
        style: Any = {"xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(labels[i], (0, places[i] + 0.42 + more[i] / 2), **style)
        axes.annotate(f"median {medians[i]}", (1, places[i] + 0.42), ha="right", color=MUTED, **style)
    axes.set(ylim=(places[-1] - 0.45, 0.62), yticks=[], xlabel=label)
    axes.set_title(title)
    axes.locator_params(axis="x", nbins=5)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    spoken = "; ".join(f"{a.arm}: median {median}" for (a, _), median in zip(drawn, medians, strict=True))
    return to_svg(figure, name, f"The critic's values by arm, {title}", spoken)


def _dots(axes: Axes, at: float, rows: Sequence[EpisodeRow], value: Callable[[EpisodeRow], float], look: Mark) -> None:
    ordered = sorted(rows, key=value)
    quarter, median, three = np.quantile([value(r) for r in ordered], [0.25, 0.5, 0.75])
    kept = [ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _MOST_DOTS)).astype(int))]
    # Multiples of the golden ratio spread neighbours evenly over the band, the same way every time.
    height = at - 0.12 + 0.3 * ((np.arange(len(kept)) * 0.6180339887) % 1)
    for failed, face in ((True, PAPER), (False, look.colour)):
        picked = [i for i, r in enumerate(kept) if (r.success is False) == failed]
        axes.plot(
            [value(kept[i]) for i in picked], height[picked], look.marker, markersize=4.2, markerfacecolor=face,
            markeredgecolor=look.colour, markeredgewidth=1, linestyle="none",
        )  # fmt: skip
    axes.plot([quarter, three], [at - 0.27] * 2, color=look.colour, linewidth=4, solid_capstyle="butt")
    axes.plot([median] * 2, [at - 0.37, at - 0.17], color=INK, linewidth=2)


def _first(row: EpisodeRow) -> float:
    return row.q_first or 0.0


def _overall(row: EpisodeRow) -> float:
    return row.q or 0.0


def _curve_panel(
    name: str, kind: str, key: str, curves: dict[tuple[str, str], list[tuple[float, float]]], members: list[str]
) -> str:
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(WIDTH, 0.85 * HEIGHT)
    axes = figure.subplots()
    for (of, split), points in sorted(curves.items()):
        look = _member_mark(members, of)
        steps, values = _thinned(points)
        held_out = split != "train"
        axes.plot(steps, values, color=look.colour, linestyle=(0, (4, 2.5)) if held_out else "-", linewidth=1.6)
        face = PAPER if held_out else look.colour
        axes.plot(steps[-1], values[-1], look.marker, markersize=5.5, markerfacecolor=face, markeredgecolor=look.colour)
    everything = np.array([v for points in curves.values() for _, v in points])
    if (everything > 0).all() and everything.max() > 8 * everything.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    title = f"{kind} loss" if key == "loss" else key.replace("_", " ")
    axes.set_title(title)
    axes.set_xlabel("updates")
    axes.xaxis.set_major_formatter(lambda x, _: words.count(x) if x >= 1 else f"{x:g}")
    axes.locator_params(axis="x", nbins=5)
    horizontal_grid(axes)
    last = "; ".join(
        f"{of or kind}, {split}: {words.number(points[-1][1])}" for (of, split), points in sorted(curves.items())
    )
    return to_svg(figure, name, f"{title} during training", f"Last values: {last}")


def _member_mark(members: list[str], of: str) -> Mark:
    markers = ("o", "s", "D", "^", "v")
    index = members.index(of) if of in members else 0
    return Mark(SERIES[(index + 1) % len(SERIES)], markers[index % len(markers)])


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """At most _MOST_POINTS points: means over equal stretches."""
    data = np.array(sorted(points))
    blocks = np.array_split(data, min(len(data), _MOST_POINTS))
    return np.array([b[:, 0].mean() for b in blocks]), np.array([b[:, 1].mean() for b in blocks])


def span(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
