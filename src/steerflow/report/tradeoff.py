"""The plots of a comparison: results by method and by task, and results against what a decision costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steerflow.report import words
from steerflow.report.figures import Plot
from steerflow.report.svg import INK, MUTED, PAPER, WIDTH, Mark, drawing, horizontal_grid, marks, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A letter's width and a line's height, as parts of a scatter plot's axes.
_LETTER, _LINE = 0.0115, 0.047
# What costs are called, where they stand, and what they are.
_COSTS: dict[str, tuple[Callable[[Mapping[str, Any]], float], str]] = {
    "GFLOP of one decision": (
        lambda cost: cost["gflop"],
        "the operations of the action's compiled program alone, with every loop written out and every critic differentiated.",
    ),
    "ms of one decision": (
        lambda cost: cost["ms"]["1"]["median"],
        "the median time of calls with one observation, which skip what they can.",
    ),
}


def by_method(name: str, table: Mapping[str, Any]) -> Plot:
    """A line for each method, the best on top: interquartile mean over tasks and runs with its interval, and the mean."""
    ordered = sorted(table["methods"], key=lambda m: m["iqm"])
    looks = marks([m["method"] for m in ordered])
    with drawing():
        labels = [words.lines(m["method"]) for m in ordered]
        figure = new_figure(1.6 * WIDTH, 40 + max(26, _tallest(labels)) * len(ordered))
        axes = figure.subplots()
        for at, m in enumerate(ordered):
            _interval(axes, at, m["iqm"], m["iqm_low"], m["iqm_high"], looks[m["method"]])
            axes.plot([m["mean"]], [at], "|", color=INK, markersize=9, markeredgewidth=1.3, zorder=6)
        _names(axes, labels)
        _measure(axes, table, "x")
        spoken = "; ".join(
            f"{m['method']}: {m['iqm']:.3g} ({m['iqm_low']:.3g} to {m['iqm_high']:.3g})" for m in ordered
        )
        panel = to_svg(figure, f"{name}-0", "Results by method", spoken)
    pairs = "1 pair" if table["pairs"] == 1 else f"{table['pairs']} pairs"
    caption = (
        f"Interquartile mean of {_what(table)} on test episodes over {pairs} of task and run, with its "
        "95% interval (bootstrap, stratified by task: runs and episodes are drawn anew within each task). The upright stroke "
        "is the plain mean over tasks."
    )
    return Plot(name, "All tasks and runs", (panel,), (), caption)


def by_task(name: str, table: Mapping[str, Any]) -> Plot:
    """A panel for each task, methods in the same order: the mean over runs with its interval, and each run's result."""
    order = [m["method"] for m in sorted(table["methods"], key=lambda m: m["iqm"])]
    looks, panels, labels = marks(order), [], [words.lines(method) for method in order]
    with drawing():
        for i, task in enumerate(table["tasks"]):
            entries = {m["method"]: m for m in task["methods"]}
            figure = new_figure(WIDTH, 62 + max(22, _tallest(labels)) * len(order))
            axes = figure.subplots()
            for at, method in enumerate(order):
                m = entries[method]
                runs = [run["score"] for run in m["runs"]]
                if len(runs) > 1:
                    axes.plot(runs, [at] * len(runs), "o", markersize=3, color=MUTED, zorder=6)
                _interval(axes, at, m["mean"], m["mean_low"], m["mean_high"], looks[method])
            _names(axes, labels)
            _measure(axes, table, "x")
            axes.set_title(words.task(task["task"]), fontsize=10)
            spoken = "; ".join(f"{method}: {entries[method]['mean']:.3g}" for method in order)
            panels.append(to_svg(figure, f"{name}-{i}", f"Results on {task['task']}", spoken))
    caption = (
        f"Mean {_what(table)} on test episodes of each task, with its 95% interval; small grey dots are the single runs, where "
        "there are several. Methods are ordered as above."
    )
    return Plot(name, "With intervals", tuple(panels), (), caption)


def against_cost(name: str, table: Mapping[str, Any]) -> tuple[Plot, ...]:
    """The same results against the operations and the time of a decision; none where costs were not measured, and no times
    where several machines measured them."""
    if any(m["cost"] is None for m in table["methods"]):
        return ()
    looks = marks([m["method"] for m in table["methods"]])
    plots = []
    timed = all(m["cost"]["ms"] for m in table["methods"])
    for i, (label, (value, about)) in enumerate(list(_COSTS.items())[: 2 if timed else 1]):
        with drawing():
            costs = [value(m["cost"]) for m in table["methods"]]
            panel = _scatter(f"{name}-{i}", label, costs, table, looks)
        caption = (
            f"Interquartile mean of {_what(table)} against {about} Up and to the left is better; cost is on a log axis."
        )
        plots.append(Plot(f"{name}-plot-{i}", f"Results against {label}", (panel,), (), caption))
    return tuple(plots)


def _scatter(name: str, label: str, costs: Sequence[float], table: Mapping[str, Any], looks: Mapping[str, Mark]) -> str:
    methods = table["methods"]
    figure = new_figure(1.6 * WIDTH, 360)
    axes = figure.subplots()
    for cost, m in zip(costs, methods, strict=True):
        look = looks[m["method"]]
        axes.vlines(cost, m["iqm_low"], m["iqm_high"], color=look.colour, linewidth=1.3, alpha=0.6)
        axes.plot(
            [cost], [m["iqm"]], look.marker, markersize=7, markerfacecolor=look.colour, markeredgecolor=PAPER, zorder=5
        )
    axes.set(xscale="log", xlabel=label, xlim=(min(costs) / 1.5, max(costs) * 3))
    low, high = axes.get_xlim()
    ticks = [t for t in (x * 10.0**e for e in range(-6, 7) for x in (1, 2, 5)) if low <= t <= high]
    axes.set_xticks(ticks[:: -(-len(ticks) // 7)], [f"{t:g}" for t in ticks[:: -(-len(ticks) // 7)]])
    axes.set_xticks([], minor=True)
    _measure(axes, table, "y")
    horizontal_grid(axes)
    bottom, top = axes.get_ylim()
    spots = [
        (float(np.log(c / low) / np.log(high / low)), (m["iqm"] - bottom) / (top - bottom))
        for c, m in zip(costs, methods, strict=True)
    ]
    labels = [words.lines(m["method"]) for m in methods]
    for text, spot, place in zip(labels, spots, _label_places(spots, labels), strict=True):
        axes.annotate(text, place, xycoords="axes fraction", fontsize=10, va="center")
        if abs(place[1] - spot[1]) > _LINE / 2:
            ends = zip(spot, (place[0] - _LETTER / 2, place[1]), strict=True)
            axes.plot(*ends, color=MUTED, linewidth=0.7, transform=axes.transAxes, zorder=2)
    spoken = "; ".join(f"{m['method']}: {m['iqm']:.3g} at {c:.3g}" for c, m in zip(costs, methods, strict=True))
    return to_svg(figure, name, f"Results against {label}", spoken)


def _tallest(labels: Sequence[str]) -> int:
    """The pixels of the label with the most lines."""
    return 15 * max(len(label.split("\n")) for label in labels)


def _label_places(spots: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[tuple[float, float]]:
    """Where each point's name begins: right of it, or as near above or below as other names and points leave room."""
    taken = [(x - 0.012, x + 0.012, y - 0.02, y + 0.02) for x, y in spots]
    places = []
    furthest = 6 * sum(len(label.split("\n")) for label in labels)
    shifts = sorted((s * _LINE / 3 for s in range(-furthest, furthest + 1)), key=lambda s: (abs(s), s))
    for (x, y), label in zip(spots, labels, strict=True):
        lines = label.split("\n")
        right, half = x + 0.02 + _LETTER * max(map(len, lines)), _LINE * len(lines) / 2
        boxes = [(x + 0.02, right, y + s - half, y + s + half) for s in shifts]
        free = [b for b in boxes if b[2] >= -0.02 and not any(_overlap(b, other) for other in taken)]
        box = (free or boxes)[0]
        taken.append(box)
        places.append((box[0], (box[2] + box[3]) / 2))
    return places


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _interval(axes: Axes, at: float, value: float, low: float, high: float, look: Mark) -> None:
    axes.hlines(at, low, high, color=look.colour, linewidth=2.4, zorder=3)
    axes.plot(
        [value], [at], look.marker, markersize=7, markerfacecolor=look.colour, markeredgecolor=PAPER, zorder=5
    )  # fmt: skip


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _measure(axes: Axes, table: Mapping[str, Any], axis: str) -> None:
    """Success from 0 to 100%; a return has no such ends."""
    if table["measure"] != "success":
        axes.set(**{f"{axis}label": "mean return"})
        return
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set(**{f"{axis}lim": (-0.03, 1.03)})
    getattr(axes, f"set_{axis}ticks")(ticks, [words.percent(t) for t in ticks])


def _what(table: Mapping[str, Any]) -> str:
    return "success" if table["measure"] == "success" else "the return"
