"""Progress with time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LOG_EVERY_SECONDS = 15.0


class Bar(Protocol):
    """What the ``bar`` context hands out: call ``update`` with the work done so far.

    ``skip`` is for work that took no time: done before, or not needed. It says nothing about the time left.
    """

    def update(self, done: float, note: str = "") -> None: ...

    def skip(self, done: float, note: str = "") -> None: ...


def console() -> Console:
    """The console for messages to a person; results that a program may read go to stdout instead."""
    return Console(file=sys.stderr)


class _TerminalBar:
    def __init__(self, progress: RichProgress, task) -> None:
        self._progress, self._task = progress, task

    def update(self, done: float, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)

    # What is shown is the speed of the last half minute, which a skip leaves soon.
    skip = update


class _LogBar:
    def __init__(self, description: str, total: float, start: float) -> None:
        self._description, self._total = description, total
        self._begin = self._last = time.monotonic()
        self._start = self._done = start

    def update(self, done: float, note: str = "") -> None:
        self._done = done
        now = time.monotonic()
        if now - self._last >= _LOG_EVERY_SECONDS:
            self._last = now
            self.line(now, note)

    def skip(self, done: float, note: str = "") -> None:
        self._start += done - self._done
        self.update(done, note)

    def line(self, now: float, note: str) -> None:
        spent, moved = now - self._begin, self._done - self._start
        left = (
            f", {spent / moved * (self._total - self._done):.0f} s left"
            if moved > 0 and self._done < self._total
            else ""
        )
        print(
            f"{self._description}: {self._done:,.0f}/{self._total:,.0f} {note} ({spent:.0f} s{left})",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def bar(description: str, total: float, start: float = 0) -> Iterator[Bar]:
    """A progress bar over ``total`` units of which ``start`` were done before; shows elapsed time and time left."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with RichProgress(*columns, console=console()) as progress:
            task = progress.add_task(description, total=total, completed=int(start), note="")
            yield _TerminalBar(progress, task)
    else:
        log = _LogBar(description, total, start)
        yield log
        log.line(time.monotonic(), "")
