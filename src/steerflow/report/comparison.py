"""The page of a comparison, ``OUT/compare.html``: made from its table alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerflow.report import words
from steerflow.report.page import render_page, write_page
from steerflow.report.tradeoff import against_cost, by_method, by_task

_TEMPLATE = "comparison.html.jinja"


def write_comparison(table: Mapping[str, Any], out: Path) -> Path:
    """Write ``OUT/compare.html`` from the table of ``steerflow.evaluate.compare.compare`` and return its path."""
    return write_page(render_comparison(table, out.resolve().name), out / "compare.html")


def render_comparison(table: Mapping[str, Any], name: str) -> str:
    """The page as HTML text; equal tables give equal text."""
    told = table["measure"] == "success"
    methods = {m["method"]: m for m in table["methods"]}
    steered = [m for m in table["methods"] if m["method"] != table["cloning"]]
    context = {
        "joined": (),
        **table,
        "left_out": by_reason(table),
        "name": name,
        "told": told,
        "score": words.percent if told else words.number,
        "range": words.interval if told else lambda low, high: f"{words.number(low)} to {words.number(high)}",
        "gain": words.points if told else lambda value: ("+" if value > 0 else "") + words.number(value),
        "others": [n for n in dict.fromkeys((table["reference"], table["cloning"])) if n in methods],
        "best": max(steered, key=lambda m: m["iqm"]) if steered else None,
        "cloning": methods.get(table["cloning"]),
        "runs": len({cell["run"] for cell in table["cells"]}),
        "costed": (costed := all(m["cost"] is not None for m in table["methods"])),
        "batches": list(table["methods"][0]["cost"]["ms"]) if costed else [],
        "overall": by_method("overall", table),
        "tasks_plot": by_task("tasks", table) if len(table["tasks"]) > 1 else None,
        "grid": _grid(table),
        "cost_plots": against_cost("cost", table),
        "budget": table["settings"]["budget"],
        "facts": _facts(table),
    }
    return render_page(_TEMPLATE, context)


def by_reason(table: Mapping[str, Any]) -> dict[str, list[str]]:
    """The methods that a join left out, together where it is for the same reason: {reason: methods}, in the table's order."""
    methods: dict[str, list[str]] = {}
    for method, why in table.get("left_out", {}).items():
        methods.setdefault(why, []).append(method)
    return methods


def _grid(table: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[tuple[float, str]]]]:
    """Of each method, the highest first: its entry, and its mean on each task, with "▲" or "▼" where it is clearly above or
    below the reference.
    """
    order = sorted(table["methods"], key=lambda m: m["iqm"], reverse=True)
    entries = [{m["method"]: m for m in task["methods"]} for task in table["tasks"]]
    return [
        (m, [(some[m["method"]]["mean"], sign(some[m["method"]], table["reference"])) for some in entries])
        for m in order
    ]


def sign(entry: Mapping[str, Any], reference: str) -> str:
    """▲ or ▼ where an entry is clearly above or below the reference: where the interval of their difference leaves out 0."""
    found = entry["against"].get(reference)
    return "" if found is None else "▲" if found["low"] > 0 else "▼" if found["high"] < 0 else ""


def _facts(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The line under the title."""
    settings, cells = table["settings"], table["cells"]
    facts = {
        "methods": len(table["methods"]),
        "tasks": len(table["tasks"]),
        "runs": len({cell["run"] for cell in cells}),
        "settings each may try": settings["budget"],
        "tuning episodes": settings["tune_episodes"],
        "test episodes": settings["test_episodes"],
    }
    return [(name, f"{value:,}") for name, value in facts.items()]
