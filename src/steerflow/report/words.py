"""Numbers and names as readers see them: percent, intervals, weights, durations, counts, methods."""

from __future__ import annotations

import math
import re
import textwrap
from typing import Any

NOTHING = "–"


def percent(value: float | None) -> str:
    """0.967 -> "97%"; one decimal where it matters near the ends, so that 99.6% is not shown as 100%."""
    if value is None:
        return NOTHING
    rounded = f"{100 * value:.0f}%"
    return f"{100 * value:.1f}%" if rounded in ("0%", "100%") and value not in (0.0, 1.0) else rounded


def interval(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"{100 * low:.0f}–{100 * high:.0f}%"


def points(value: float) -> str:
    """A difference of two success rates in percentage points, with a sign: "+87", "−3", "0"."""
    return signed(100 * value)


def signed(value: float, digits: int = 0) -> str:
    text = f"{abs(value):.{digits}f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "−"
    return sign + text


def number(value: Any, digits: int = 3) -> str:
    """A measured number with ``digits`` significant ones: 12345.6 -> "12,346", 0.012345 -> "0.0123"."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if decimals > 6:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    return f"{value:,.{decimals}f}".replace("-", "−")


def weight(value: float) -> str:
    """A guidance weight, to three significant digits and without trailing zeros: 0.1, 0.0866, 2."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.8f}".rstrip("0").rstrip(".") if abs(rounded) >= 1e-5 or rounded == 0 else f"{rounded:g}"


def task(name: str) -> str:
    """A task's name as short as it can be told: "cube-single task 2" of cube-single-singletask-task2-v0."""
    plain = name.removesuffix("-v0").rpartition(":")[2]
    return re.sub(r"-singletask-task(\d)$", " task\N{NO-BREAK SPACE}\\1", plain)


def lines(name: str, letters: int = 28) -> str:
    """A method's or arm's name in lines that leave room for its results: one with settings of its own may be long."""
    return textwrap.fill(name, letters)


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seconds(value: float) -> str:
    """A duration: 42 s, 7 min 5 s, 2 h 13 min."""
    whole = round(value)
    if whole < 60:
        return f"{value:.1f} s" if value < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(value: float) -> str:
    """A large count in words: 1.1 M, 300 k, 57."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def flat(data: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (name, text) pairs for a list of facts."""
    if isinstance(data, dict):
        return [
            pair for key, value in data.items() for pair in flat(value, f"{prefix} {key}".replace("_", " ").strip())
        ]
    if isinstance(data, list | tuple):
        if all(not isinstance(v, dict | list | tuple) for v in data):
            shown = ", ".join(_text(v) for v in data[:12]) + (f", … ({len(data)})" if len(data) > 12 else "")
            return [(prefix, shown)]
        return [pair for i, value in enumerate(data) for pair in flat(value, f"{prefix} {i + 1}".strip())]
    return [(prefix, _text(data))]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NOTHING}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
