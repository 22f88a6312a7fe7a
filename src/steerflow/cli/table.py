"""The table of arms on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
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
