"""The table of arms on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerflow.progress import console


def show_arms(summary: Mapping[str, Any], task: str) -> None:
    """Print behaviour cloning and each method's chosen arm on the test episodes of ``task``, with intervals."""
    from rich.table import Table

    chosen = {choice["method"]: choice["arm"] for choice in summary["choice"] if choice["task"] == task}
    arms = [arm for arm in summary["arms"] if arm["task"] == task and arm["split"] == "test"]
    table = Table(title=task, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    table.add_column("arm")
    for name in ("success", "95 % interval", "episodes", "return", "length"):
        table.add_column(name, justify="right")
    for arm in arms:
        if chosen.get(arm["method"], arm["arm"]) != arm["arm"]:
            continue
        told = arm["success"] is not None
        table.add_row(
            arm["arm"],
            f"{arm['success']:.2f}" if told else "–",
            f"{arm['ci_low']:.2f} – {arm['ci_high']:.2f}" if told else "–",
            str(arm["episodes"]),
            f"{arm['mean_return']:.1f}",
            f"{arm['mean_length']:.0f}",
        )
    console().print(table)
    for best in summary["optimistic"]:
        if best["task"] == task and best["success"] is not None:
            console().print(
                f"Optimistic for {best['method']}: {best['success']:.2f} at {best['arm']}, {best['note']}.", style="dim"
            )


def show_points(title: str, points: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print points of an analysis: a column for each entry named, with its interval where there is one."""
    from rich.table import Table

    for task in dict.fromkeys(str(point["task"]) for point in points):
        here = [point for point in points if point["task"] == task]
        table = Table(
            title=f"{title}: {task}",
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            header_style="dim",
        )
        for header, name in columns.items():
            text = any(isinstance(point.get(name), str) for point in here)
            table.add_column(header, justify="left" if text else "right")
        for point in here:
            table.add_row(*(_cell(point, name) for name in columns.values()))
        console().print(table)


def _cell(point: Mapping[str, Any], name: str) -> str:
    value = point.get(name)
    if value is None or isinstance(value, str | int):
        return "–" if value is None else str(value)
    low, high = ("ci_low", "ci_high") if name == "success" else (f"{name}_low", f"{name}_high")
    interval = f" [{point[low]:.3g}, {point[high]:.3g}]" if point.get(low) is not None else ""
    return f"{value:.3g}{interval}"
