"""One row per episode on disk, ``RUN/evaluations/<task>.jsonl``: the source of every table and plot.

Rows hold no times and no machine, so that equal evaluations give equal files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from steerflow.artefact import write_bytes
from steerflow.errors import ArtefactError, BusyError, SteerflowError, unknown

# Episodes of a split are this far apart from those of the next one and of the next base seed.
_SPLIT_SIZE = 1_000_000
_SPLITS = {"tune": 0, "test": _SPLIT_SIZE}
_MAX_BASE_SEED = 2**31 // (2 * _SPLIT_SIZE)


def episode_seed(base: int, split: str, episode: int) -> int:
    """The seed of an episode: of its reset, its environment's noise and the policy's noise.

    Depends on nothing else, so that all arms meet the same episodes. The splits "tune" and "test" share no seed.
    Raises SteerflowError unless 0 <= episode < 1,000,000 and 0 <= base <= 1073.
    """
    if split not in _SPLITS:
        raise unknown("split", split, _SPLITS)
    if not (0 <= episode < _SPLIT_SIZE and 0 <= base <= _MAX_BASE_SEED):
        raise SteerflowError(
            f"Episode {episode} of seed {base}: episodes must be below {_SPLIT_SIZE:,} and seeds at most {_MAX_BASE_SEED}."
        )
    return base * 2 * _SPLIT_SIZE + _SPLITS[split] + episode


@dataclass(frozen=True)
class EpisodeRow:
    """What happened in one episode. ``q`` and the norms are means over its decisions, None where there was no critic."""

    arm: str
    method: str
    weight: float
    candidates: int
    recipe: dict[str, Any]
    task: str
    split: str
    episode: int
    seed: int
    success: bool | None
    return_: float
    length: int
    q: float | None
    q_first: float | None
    gradient_norm: float | None
    velocity_norm: float | None
    clipped_fraction: float | None
    # Fingerprints of the artefacts.
    policy: str
    critic: str
    # Those of the parts that the recipe asks, by kind.
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it the same episode of the same arm; a row that is there is not run again."""
        return (*self.arm_key, str(self.seed))

    @property
    def arm_key(self) -> tuple[str, ...]:
        return arm_key(self.arm, self.recipe, self.fingerprints, self.task, self.split)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of all artefacts that took part."""
        return fingerprints(self.policy, self.critic, self.parts)

    @property
    def order(self) -> tuple:
        """The canonical order of a file."""
        return (
            self.task,
            self.split,
            self.fingerprints,
            self.method,
            self.weight,
            self.key,
            self.seed,
        )

    def to_json(self) -> str:
        return json.dumps({name.rstrip("_"): value for name, value in asdict(self).items()}, allow_nan=False)

    @staticmethod
    def from_json(line: str | bytes) -> EpisodeRow:
        data = json.loads(line)
        names = {f.name for f in fields(EpisodeRow)}
        return EpisodeRow(**{name: value for k, value in data.items() if (name := _FIELD.get(k, k)) in names})


_FIELD = {"return": "return_"}


def fingerprints(policy: str, critic: str, parts: Mapping[str, str]) -> tuple[str, ...]:
    """Names what an arm is made of: the policy, the critic (empty where there is none), and each part with its kind."""
    return (policy, critic, *(f"{kind} {parts[kind]}" for kind in sorted(parts)))


def arm_key(arm: str, recipe: dict[str, Any], made_of: tuple[str, ...], task: str, split: str) -> tuple[str, ...]:
    """Identifies an arm on a task's split; ``made_of`` are its ``fingerprints``."""
    return (arm, json.dumps(recipe, sort_keys=True), *made_of, task, split)


def read_rows(path: Path) -> list[EpisodeRow]:
    """All rows of a file; an empty list if there is none. A last line that was cut when its writer was killed is dropped.

    Raises ArtefactError that names the line for anything else that is no row.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    # What follows the last newline is empty, or a cut line.
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(EpisodeRow.from_json(line))
        except (ValueError, TypeError) as error:
            raise ArtefactError(
                f"Line {number} of {path} is no row of an evaluation ({error}); the file was edited. "
                "Delete the line: its episode is run again."
            ) from error
    return rows


class RowFile:
    """Appends rows, each of them at once; one process at a time. ``sort`` brings the file into canonical order.

    with RowFile(path) as file:
        file.append(row)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def __enter__(self) -> RowFile:
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise BusyError(f"Another process is evaluating into {self.path}. Wait for it, or stop it.") from None
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._lock.release()

    def append(self, row: EpisodeRow) -> None:
        with _writing(self.path):
            line = (row.to_json() + "\n").encode()
            if os.write(self._descriptor, line) != len(line):
                raise OSError("the line was cut")

    def sort(self) -> list[EpisodeRow]:
        """Rewrite the file in canonical order, whatever the order in which the episodes ended; returns its rows."""
        rows = sorted(read_rows(self.path), key=lambda row: row.order)
        write_bytes(self.path, "".join(row.to_json() + "\n" for row in rows).encode())
        os.close(self._descriptor)
        self._open()
        return rows

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        # A cut last line would swallow the next row.
        content = self.path.read_bytes()
        os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtefactError(
            f"Could not write {path}: {error.strerror or error}. Free some space; what is there is kept."
        ) from error


def rows_path(run: Path, task: str, kind: str = "") -> Path:
    """Where a run keeps the rows of a task; ``kind`` names a folder for rows that belong to no table."""
    safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in task)
    return run / "evaluations" / kind / f"{safe}.jsonl"


def read_run(run: Path, kind: str = "") -> list[EpisodeRow]:
    """The rows of all tasks of a run."""
    return [row for path in sorted((run / "evaluations" / kind).glob("*.jsonl")) for row in read_rows(path)]
