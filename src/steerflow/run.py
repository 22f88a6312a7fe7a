"""The run folder: its lock, its config and its metrics."""

from __future__ import annotations

import difflib
import json
import signal
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from steerflow.artefact import write_bytes
from steerflow.errors import ArtefactError, BusyError, SteerflowError

# For other parts of a run, which hold what they share for moments.
_WAIT_SECONDS = 10.0


@contextmanager
def locked(run: Path, part: str | None = None) -> Iterator[None]:
    """Hold the run folder, or only what belongs to a ``part``, so that others can be learnt meanwhile; raises if another process
    holds it. A killed process holds nothing."""
    with ExitStack() as held:
        if part is None:
            held.enter_context(_held(run, ".lock"))
            # With it no part can begin; those that have, hold their own.
            for path in run.glob(".*.lock"):
                held.enter_context(_held(run, path.name))
        else:
            with briefly_locked(run):
                held.enter_context(_held(run, f".{part}.lock"))
        yield


def briefly_locked(run: Path) -> AbstractContextManager[None]:
    """Hold what the parts of a run share; their processes wait for one another."""
    return _held(run, ".lock", _WAIT_SECONDS)


@contextmanager
def _held(run: Path, name: str, seconds: float = 0.0) -> Iterator[None]:
    # Errors of the block itself are not the lock's: they pass as they are.
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / name, timeout=seconds)
        lock.acquire()
    except Timeout as error:
        raise BusyError(f"Another process is writing {run}. Wait for it, or give this one another --run.") from error
    except OSError as error:
        raise SteerflowError(f"Could not use {run}: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Lets a loop end at a point of its choosing: the result says whether Ctrl-C or SIGTERM came, which takes effect when
    the context is left. A second one takes effect at once. A signal that the process ignores, as jobs in the background
    ignore Ctrl-C, stays ignored; where a handler lets the process go on, KeyboardInterrupt ends what was not finished."""
    pending: list[int] = []
    previous = {}

    def note(number: int, frame: Any) -> None:
        if pending:
            restore()
            signal.raise_signal(number)
        pending.append(number)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def requested() -> bool:
        return bool(pending)

    if threading.current_thread() is threading.main_thread():
        heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, note) for number in heard}
    try:
        yield requested
    finally:
        restore()
    if pending:
        signal.raise_signal(pending[0])
        raise KeyboardInterrupt


def read_config(run: Path) -> dict[str, Any]:
    """The tables of ``config.toml``; empty if there is none."""
    path = run / "config.toml"
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} is not valid TOML ({error}). Mend it or remove it.") from error


def data_of(run: Path) -> str:
    """The data set that the run's policy was trained on; raises where ``config.toml`` does not say."""
    tables = read_config(run)
    for learn in ("policy", "both"):
        if learn in tables:
            return str(tables[learn]["data"])
    raise SteerflowError(f"{run / 'config.toml'} does not say what the policy was trained on. Give --data NAME.")


def keep_config(run: Path, table: str, config: Mapping[str, Any], free: tuple[str, ...] = ()) -> None:
    """Write ``config`` as one table of ``config.toml``; raises if the table is there with other values.

    Fields in ``free`` may change between calls. They, too, are written.
    """
    tables = read_config(run)
    old = tables.get(table)
    if old is not None:
        differing = [k for k in {*old, *config} if k not in free and old.get(k) != config.get(k)]
        if differing:
            detail = "; ".join(f"{k}: {old.get(k)} there, {config.get(k)} now" for k in sorted(differing))
            raise SteerflowError(f"{run} was made with other settings ({detail}). Use them, or give another --run.")
    write_bytes(run / "config.toml", tomli_w.dumps({**tables, table: dict(config)}).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines) - 1:
                break
            raise ArtefactError(
                f"Line {number + 1} of {path} is not valid JSON; it was edited. Remove the line."
            ) from error
    return rows


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON-lines file with the rows that ``keep`` accepts."""
    if path.exists():
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in read_lines(path) if keep(row)).encode())


def find_run(name: str | Path) -> Path:
    """The run folder ``name``, or ``runs/<name>``; raises with the nearest known names, or those of its seeds."""
    runs = find_runs(name)
    if runs[0].parent in (Path(name), Path("runs") / name):
        raise SteerflowError(f"{runs[0].parent} holds a run for each seed. Name one: {', '.join(map(str, runs))}.")
    return runs[0]


def seeds_of(folder: Path) -> list[Path]:
    """The runs in a folder that holds one for each seed; an empty list for other folders, also for a run."""
    if (folder / "config.toml").exists():
        return []
    return sorted(config.parent for config in folder.glob("seed-*/config.toml"))


def find_runs(name: str | Path) -> list[Path]:
    """The run folder ``name``, or ``runs/<name>``, or its seeds where it holds a run for each; raises with the nearest
    known names."""
    for path in (Path(name), Path("runs") / name):
        if path.is_dir():
            return seeds_of(path) or [path]
    known = [p.name for p in Path("runs").iterdir() if p.is_dir()] if Path("runs").is_dir() else []
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise SteerflowError(
        f"There is no run folder {name!s}.{hint} Runs are made by `steerflow train` or `steerflow demo`."
    )
