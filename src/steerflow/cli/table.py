"""The table of arms on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerflow.progress import console

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def show_arms(summary: Mapping[str, Any], task: str) -> None:
    """Print behaviour cloning and each method's chosen arm on the test episodes of ``task``, with intervals."""
    from rich.table import Table

    chosen = {choice["method"]: choice["arm"] for choice in summary["choice"] if choice["task"] == task}
    arms = [arm for arm in summary["arms"] if arm["task"] == task and arm["split"] == "test"]
    table = Table(title=task, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    table.add_column("arm", overflow="fold")
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


def show_comparison(table: Mapping[str, Any]) -> None:
    """Print results by method, with intervals, paired differences and settings tried; by task; and what a decision costs."""
    from steerflow.report import words
    from steerflow.report.comparison import by_reason, sign

    told = table["measure"] == "success"
    others = [
        name
        for name in dict.fromkeys((table["cloning"], table["reference"]))
        if name in {m["method"] for m in table["methods"]}
    ]

    def number(value: float, sign: str = "") -> str:
        return f"{value:{sign}.3f}" if told else f"{value:{sign}.1f}"

    def difference(m: Mapping[str, Any], other: str) -> str:
        d = m["against"].get(other)
        return f"{number(d['difference'], '+')} ({d['wins']}:{d['losses']})" if d else ""

    tasks, cells = len(table["tasks"]), table["pairs"]
    title = f"{table['measure']} over {_count(tasks, 'task')}, {_count(cells, 'pair')} of task and run"
    results = _table(title, "IQM", "95 % interval", "mean", *(f"- {name} (won:lost)" for name in others), "tried")
    for m in table["methods"]:
        results.add_row(
            m["method"], number(m["iqm"]), f"{number(m['iqm_low'])} – {number(m['iqm_high'])}", number(m["mean"]),
            *(difference(m, name) for name in others), "–".join(dict.fromkeys(map(str, m["settings"]))),
        )  # fmt: skip
    console().print(results)
    if len(table["tasks"]) > 1:
        by_task = _table(f"{table['measure']} by task", *(words.task(task["task"]) for task in table["tasks"]))
        for entries in zip(*(task["methods"] for task in table["tasks"]), strict=True):
            means = (f"{m['mean']:.2f}" if told else f"{m['mean']:.1f}" for m in entries)
            signs = (sign(m, table["reference"]) or " " for m in entries)
            by_task.add_row(entries[0]["method"], *map(" ".join, zip(means, signs, strict=True)))
        console().print(by_task)
        note = (
            f"▲ ▼: clearly above, below {table['reference']}: the 95 % interval of the paired difference leaves out 0."
        )
        console().print(note, style="dim")
    costed = [m for m in table["methods"] if m["cost"] is not None]
    # None where times are of several machines.
    batches = list(costed[0]["cost"]["ms"]) if costed else []
    costs = _table("cost of a decision", "GFLOP", *(f"ms at batch {batch}" for batch in batches), "network calls")
    for m in costed:
        times = [f"{m['cost']['ms'][batch]['median']:.3g}" for batch in batches]
        costs.add_row(m["method"], f"{m['cost']['gflop']:.3g}", *times, f"{sum(m['cost']['calls'].values()):.0f}")
    if costed:
        console().print(costs)
    for gap in table["missing"]:
        console().print(f"Missing: {gap['task']} with {gap['run']}.", style="dim")
    for why, methods in by_reason(table).items():
        console().print(f"Left out: {', '.join(methods)} {'is' if len(methods) == 1 else 'are'} {why}.", style="dim")


def _table(title: str, *columns: str) -> RichTable:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    table.add_column("method", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
