"""What is drawn of an analysis's points: one row of panels for each task. Pure functions of the data that are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerflow.analyse.draw import Mean, Panel
from steerflow.analyse.figures import Axis

Point = Mapping[str, Any]

_CHOICES = {
    "tuned": "weight tuned for each task",
    "left_out": "weight tuned on the other tasks",
    "one": "one weight for all tasks",
}


def success_panels(points: Sequence[Point], axes: Sequence[Axis]) -> list[list[Panel]]:
    """Success (or mean return, where success is not told) of every line against each of the axes.

    On a log axis what stands at 0 becomes a dotted level: a guidance weight of 0 is plain behaviour cloning.
    """
    rows = []
    for task, here in _by(points, "task").items():
        told = all(point["success"] is not None for point in here)
        row = []
        for axis in axes:
            lines: dict[str, list[Mean]] = {}
            levels: dict[tuple[float, str], None] = {}
            for point in here:
                x, mean = axis.of(point), _mean(point, told)
                if axis.log and x == 0:
                    levels[mean[0], point["arm"]] = None
                else:
                    lines.setdefault(point["line"], []).append(Mean(x, *mean, chosen=point.get("chosen", False)))
            for line in lines.values():
                if not any(isinstance(mean.x, str) for mean in line):
                    line.sort(key=lambda mean: mean.x)
            label = "success on test episodes" if told else "mean return on test episodes"
            row.append(Panel("" if row else task, axis.label, label, lines, axis.log, told, levels=tuple(levels)))
        rows.append(row)
    return rows


def direction_panels(points: Sequence[Point]) -> list[list[Panel]]:
    """The cosine against the noise's scale and against flow time, and the norm's spread against flow time."""
    wanted = (
        ("scale", "cosine", "standard deviation of the noise on a_t", "cosine between the guidances"),
        ("time", "cosine", "flow time t (0 = noise, 1 = action)", "cosine between the guidances"),
        ("time", "norm_spread", "flow time t (0 = noise, 1 = action)", "spread of the norm / its mean"),
    )
    rows = []
    for task, here in _by(points, "task").items():
        row = []
        for axis, measure, x_label, y_label in wanted:
            other = {"scale": "time", "time": "scale"}[axis]
            lines: dict[str, list[Mean]] = {}
            for point in here:
                if point[axis] is not None and point[other] is None:
                    ends = (point[name] for name in (measure, f"{measure}_low", f"{measure}_high"))
                    lines.setdefault(point["guidance"], []).append(Mean(point[axis], *ends))
            row.append(Panel("" if row else task, x_label, y_label, lines, log=axis == "scale"))
        rows.append(row)
    return rows


def value_panels(points: Sequence[Point]) -> list[list[Panel]]:
    """Success against the gain in predicted Q, success against the distance from the data, and that gain against it."""
    rows = []
    for task, here in _by(points, "task").items():
        (recorded,), arms = ([p for p in here if ("q" in p) == known] for known in (False, True))
        tested = [point for point in arms if point["success"] is not None]
        q, distance = "predicted Q above behaviour cloning's", "distance from the data (behaviour cloning = 1)"
        rows.append(
            [
                _scatter(task, tested, ("q_gain", q), ("success", "success")),
                _scatter("", tested, ("distance", distance), ("success", "success")),
                _scatter(
                    f"recorded actions stand at {recorded['distance']:.3g}", arms, ("distance", distance), ("q_gain", q)
                ),
            ]
        )
    return rows


def transfer_panels(found: Mapping[str, Any]) -> list[list[Panel]]:
    """A panel of tuning curves for each schedule, a line for each setting; and the mean success of each choice of the weight."""
    curves = []
    for schedule, here in _by(found["curves"], "schedule").items():
        lines: dict[str, list[Mean]] = {}
        for point in here:
            lines.setdefault(point["setting"], []).append(Mean(point["weight"], *_mean(point, told=True), hollow=True))
        curves.append(Panel(schedule, "weight, in the schedule's unit", "success", lines, log=True, success=True))
    overall: dict[str, list[Mean]] = {}
    for entry in found["schedules"]:
        for choice, words in _CHOICES.items():
            if choice in entry:
                ends = (entry[choice][name] for name in ("success", "ci_low", "ci_high"))
                overall.setdefault(words, []).append(Mean(entry["schedule"], *ends))
    mean = Panel("all settings", "schedule", "mean success on test episodes", overall, success=True)
    return [*([*curves[k : k + 3]] for k in range(0, len(curves), 3)), [mean]]


def _scatter(title: str, points: Sequence[Point], x: tuple[str, str], y: tuple[str, str]) -> Panel:
    """A line for each method, from its smallest strength to its largest, which are written beside it."""
    low, high = ("ci_low", "ci_high") if y[0] == "success" else (f"{y[0]}_low", f"{y[0]}_high")
    lines: dict[str, list[Mean]] = {}
    for name, line in _by(points, "line").items():
        for point in line:
            weight, candidates = point["recipe"]["weight"], point["recipe"]["candidates"]
            tested = point.get("split") == "test"
            strengths = [f"{weight:.3g}"] * (weight > 0) + [f"n={candidates}"] * (candidates > 1)
            note = " ".join(strengths) if point in (line[0], line[-1]) else ""
            mean = Mean(point[x[0]], point[y[0]], point[low], point[high], note, hollow=not tested)
            lines.setdefault(name, []).append(mean)
    return Panel(title, x[1], y[1], lines, success=y[0] == "success", scatter=True)


def _mean(point: Point, told: bool) -> tuple[float, float, float]:
    names = ("success", "ci_low", "ci_high") if told else ("mean_return", "return_ci_low", "return_ci_high")
    return point[names[0]], point[names[1]], point[names[2]]


def _by(points: Sequence[Point], name: str) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point[name], []).append(point)
    return groups
