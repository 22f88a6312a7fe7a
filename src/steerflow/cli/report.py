"""``steerflow report RUN``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steerflow.cli.runs import RunName
from steerflow.cli.shell import parse


@dataclass(frozen=True)
class Report:
    """Write one HTML page that shows a run: success, weights, learning curves, Q, paths, video."""

    # Run folder, or its name below ./runs.
    run: RunName
    # Where to write the page; RUN/report.html by default.
    out: Path | None = None
    # With --no-video, leave out the video: replaying an episode for it takes the longest.
    video: bool = True


def report(arguments: list[str]) -> None:
    config = parse(Report, arguments, prog="steerflow report")
    from steerflow.report.write import write_report
    from steerflow.run import find_run

    print(write_report(find_run(config.run), config.out, video=config.video))
