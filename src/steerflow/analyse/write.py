"""An analysis on disk: ``RUN/analysis/WHAT.json``, which says how it was made, and ``WHAT.png``, drawn from its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerflow.analyse.about import FIGURES
from steerflow.analyse.draw import Panel, draw
from steerflow.artefact import package_versions, write_bytes, write_json


def write_analysis(
    run: Path, what: str, points: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[Panel]], made: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write the data and the plot; returns their paths. ``made``: the command and its settings, artefacts and data."""
    about, folder = FIGURES[what], run / "analysis"
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "what": what,
        "title": about.title,
        "shows": about.shows,
        "claim": about.claim,
        "versions": package_versions(),
        **made,
    }
    write_json(folder / f"{what}.json", {**data, "points": list(points)})
    write_bytes(folder / f"{what}.png", draw(rows, about.title))
    return folder / f"{what}.json", folder / f"{what}.png"
