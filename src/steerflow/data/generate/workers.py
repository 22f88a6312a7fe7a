"""Episodes in parallel: processes that each build one world and fill part files, a few episodes at a time.

Workers are spawned, never forked, and never import jax. They end by themselves when the process that started them is gone.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
import types
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from steerflow.artefact import write_bytes
from steerflow.data.generate.settings import Settings
from steerflow.data.generate.world import Columns, GenerationError, Widths, World, collect, open_world
from steerflow.errors import ArtefactError, SteerflowError

KEPT = "What was finished is kept; the same command goes on from there."


@dataclass(frozen=True)
class Plan:
    """What to generate, and the folder of its part files."""

    name: str
    settings: Settings
    seed: int
    folder: Path


@dataclass(frozen=True)
class Part:
    """Episodes ``first`` to ``last`` (exclusive) of a split: one file, there whole or not at all."""

    split: str
    first: int
    last: int

    def path(self, folder: Path) -> Path:
        return folder / f"{self.split}-{self.first:07d}-{self.last:07d}.npz"

    def read(self, folder: Path) -> list[Columns]:
        path = self.path(folder)
        try:
            # From memory, so that no library keeps a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except Exception as error:  # zipfile, zlib and numpy each have their own
            path.unlink(missing_ok=True)
            raise ArtefactError(f"{path} was damaged ({error}) and has been removed. {KEPT}") from error
        return [{name: column[i] for name, column in columns.items()} for i in range(self.last - self.first)]

    def write(self, folder: Path, episodes: Sequence[Columns]) -> None:
        buffer = io.BytesIO()
        stacked: dict[str, Any] = {name: np.stack([e[name] for e in episodes]) for name in episodes[0]}
        np.savez(buffer, **stacked)
        write_bytes(self.path(folder), buffer.getvalue())


@dataclass(frozen=True)
class Facts:
    """What only a built world knows: the action bounds and the bytes of a row."""

    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    widths: Widths

    @staticmethod
    def of(world: World) -> Facts:
        return Facts(tuple(world.action_low.tolist()), tuple(world.action_high.tolist()), world.widths)


# ("facts", Facts) once, before anything is generated; then ("rows", n) for each finished episode.
Event = tuple[Literal["facts"], Facts] | tuple[Literal["rows"], int]


def fill_parts(plan: Plan, parts: Sequence[Part], workers: int) -> Generator[Event, None, None]:
    """Generate and write the parts; close the iterator to stop. One worker means this process.

    Raises GenerationError where a world cannot be built or a worker dies, ArtefactError where the disk is full.
    """
    if workers <= 1:
        return _here(plan, parts)
    return _in_workers(plan, parts, min(workers, max(1, len(parts))))


def _here(plan: Plan, parts: Sequence[Part]) -> Generator[Event, None, None]:
    from steerflow.envs.tasks import global_random_state, set_global_random_state

    state = global_random_state()
    try:
        world = open_world(plan.settings)
        yield "facts", Facts.of(world)
        for part in parts:
            for done in _fill(world, plan, part):
                yield "rows", done
    finally:
        set_global_random_state(state)


def _fill(world: World, plan: Plan, part: Part) -> Iterator[int]:
    episodes = []
    for index in range(part.first, part.last):
        episodes.append(collect(world, plan.name, plan.seed, part.split, index))
        if index + 1 < part.last:
            yield len(episodes[-1]["observations"])
    part.write(plan.folder, episodes)
    yield len(episodes[-1]["observations"])


def _in_workers(plan: Plan, parts: Sequence[Part], workers: int) -> Generator[Event, None, None]:
    context = get_context("spawn")
    waiting = deque(parts)
    processes = []
    busy: set[Any] = set()
    try:
        with _fit_for_workers():
            for _ in range(workers):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, plan), daemon=True)
                process.start()
                there.close()
                processes.append(process)
                busy.add(here)
        told = False
        while busy:
            for connection in cast("list[Any]", wait(list(busy))):
                kind, value = _receive(connection)
                if kind == "facts" and not told:
                    told = True
                    yield "facts", value
                elif kind == "rows":
                    yield "rows", value
                if kind in ("facts", "part"):
                    if waiting:
                        connection.send(waiting.popleft())
                    else:
                        connection.close()
                        busy.remove(connection)
    finally:
        for connection in busy:
            connection.close()
        for process in processes:
            process.terminate()
            process.join()


def _receive(connection: Connection) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, ConnectionError) as error:
        raise GenerationError(
            "A process that generates data ended without a word; was it killed for lack of memory? "
            f"{KEPT} With fewer processes: --workers 1"
        ) from error
    if kind == "instruction":
        raise ArtefactError(f"{value} {KEPT}")
    if kind == "error":
        raise GenerationError(f"A process that generates data failed. {KEPT}\n{value}")
    return kind, value


def _work(connection: Connection, plan: Plan) -> None:
    """A worker's life: tell the facts, then fill the parts it is sent until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        world = open_world(plan.settings)
        connection.send(("facts", Facts.of(world)))
        while True:
            part = connection.recv()
            for rows in _fill(world, plan, part):
                connection.send(("rows", rows))
            connection.send(("part", part))
    except (EOFError, ConnectionError):
        return  # the parent is done, or gone
    except SteerflowError as error:
        connection.send(("instruction", str(error)))
    except Exception:
        connection.send(("error", traceback.format_exc()))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _fit_for_workers() -> Iterator[None]:
    """While processes start: one thread each, no OpenGL, and no import of the caller's main module.

    A spawned process would run the caller's script once more, up to the call that started it, with all it imports.
    """
    settings = {"MUJOCO_GL": "disabled", **{f"{n}_NUM_THREADS": "1" for n in ("OMP", "OPENBLAS", "MKL")}}
    before = {name: os.environ.get(name) for name in settings}
    main = sys.modules["__main__"]
    os.environ.update(settings)
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
