"""The chunk store: memory-mapped columns with an episode index.

A store is a folder of ``.npy`` columns and a ``meta.json``. Row ``j`` of an episode holds the state ``s_j`` and, for all
rows but the last, the action ``a_j`` that led to ``s_{j+1}``. The last row is a state only, so next observations are never
stored twice. Rewards and masks of any number of tasks lie beside the columns: ``tasks/<task>/rewards.npy``. A data set is a
folder with the stores ``train`` and ``val``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerflow.artefact import FORMAT, META, read_json, write_json
from steerflow.data.columns import column_facts, open_column, sha256, write_header
from steerflow.errors import ArtefactError, DataError, unknown

_CORE = ("observations", "actions")
_ENDS = "episode_ends"


def data_root() -> Path:
    """Where data sets are kept: $STEERFLOW_DATA, or ``data`` in the current folder."""
    return Path(os.environ.get("STEERFLOW_DATA", "data"))


@dataclass(frozen=True)
class Store:
    """One split of a data set, opened for reading.

    observations (rows, observation_dim) float32, actions (rows, action_dim) float32, both memory-mapped;
    ``episode_ends`` (episodes,) int64 are exclusive: episode e is rows ``episode_starts[e]:episode_ends[e]``.
    ``info`` holds further columns (qpos, qvel, button_states) for reward labelling.
    """

    path: Path
    meta: dict[str, Any]
    observations: np.memmap
    actions: np.memmap
    episode_ends: np.ndarray
    info: dict[str, np.memmap]
    scattered: bool = False

    @staticmethod
    def open(path: Path | str, *, scattered: bool = False) -> Store:
        """Open a store; raises ArtefactError if a column is missing, short or of another type than it should be.

        ``scattered`` is for reading rows at random places: the system then reads single pages from the disk, not long runs.
        """
        path = Path(path)
        if not (path / META).exists():
            raise ArtefactError(f"There is no data store at {path}. Make one: steerflow data make --help")
        meta = read_json(path / META)
        if meta.get("format") != FORMAT or meta.get("kind") != "store" or "columns" not in meta:
            raise ArtefactError(
                f"{path / META} is not of a data store of format {FORMAT}; it was made by another program or version."
            )
        columns = {name: open_column(path / f"{name}.npy", facts, scattered) for name, facts in meta["columns"].items()}
        missing = [name for name in (*_CORE, _ENDS) if name not in columns]
        if missing:
            raise ArtefactError(f"The data store at {path} lacks the column {missing[0]!r}. Make or import it again.")
        ends = np.asarray(columns[_ENDS])
        rows = len(columns["observations"])
        short = [name for name, column in columns.items() if name != _ENDS and len(column) != rows]
        if short:
            raise ArtefactError(
                f"Column {short[0]!r} of {path} has {len(columns[short[0]])} rows, observations have {rows}."
            )
        lengths = np.diff(ends, prepend=0)
        if len(ends) == 0 or ends[-1] != rows or (lengths < 2).any():
            raise ArtefactError(f"The episode index of {path} does not fit its {rows} rows. Make or import it again.")
        info = {name: column for name, column in columns.items() if name not in (*_CORE, _ENDS)}
        return Store(path, meta, columns["observations"], columns["actions"], ends, info, scattered)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {self.episodes} episodes, {self.transitions} transitions)"

    @property
    def rows(self) -> int:
        return len(self.observations)

    @property
    def episodes(self) -> int:
        return len(self.episode_ends)

    @property
    def transitions(self) -> int:
        """Rows that have an action: every row but the last of each episode."""
        return self.rows - self.episodes

    @property
    def episode_starts(self) -> np.ndarray:
        return np.concatenate([[0], self.episode_ends[:-1]]).astype(np.int64)

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each (action_dim,), in the data's units."""
        return np.asarray(self.meta["action_low"], np.float32), np.asarray(self.meta["action_high"], np.float32)

    @property
    def fingerprint(self) -> str:
        """A hash of the columns' checksums: equal for equal data."""
        sums = {name: facts["sha256"] for name, facts in self.meta["columns"].items()}
        return hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()[:16]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks whose rewards lie in this store."""
        folder = self.path / "tasks"
        return tuple(sorted(p.name for p in folder.iterdir() if (p / META).exists())) if folder.is_dir() else ()

    def rewards(self, task: str) -> tuple[np.memmap, np.memmap]:
        """(rewards, masks) of ``task``, each (rows,) float32. Row j: the reward of the step from row j to j+1, and 0 in
        ``masks`` where that step ends the task for good (success or a true terminal), else 1."""
        folder = self.path / "tasks" / task
        if not (folder / META).exists():
            raise unknown(
                "task",
                task,
                self.tasks,
                f"The store at {self.path} holds rewards of {len(self.tasks)} task(s).",
            )
        facts = read_json(folder / META)["columns"]
        rewards, masks = (
            open_column(folder / f"{name}.npy", facts[name], self.scattered) for name in ("rewards", "masks")
        )
        if len(rewards) != self.rows or len(masks) != self.rows:
            raise ArtefactError(f"The rewards in {folder} have {len(rewards)} rows, the store has {self.rows}.")
        return rewards, masks

    def ends_of_task(self, task: str) -> int:
        """How often the data come to the end of ``task`` (for a single task: to its success): stretches of steps with mask 0."""
        over = np.asarray(self.rewards(task)[1] == 0)
        # The last row of an episode has no step, and so no part in what is learnt.
        over[self.episode_ends - 1] = False
        return int(over[0]) + int(np.count_nonzero(over[1:] & ~over[:-1]))

    def add_task(self, task: str, rewards: np.ndarray, masks: np.ndarray) -> None:
        """Store the rewards and masks of a task beside the columns; replaces what was there."""
        for name, column in (("rewards", rewards), ("masks", masks)):
            if np.shape(column) != (self.rows,):
                raise DataError(
                    f"{name} of task {task!r} have shape {np.shape(column)}; the store needs ({self.rows},)."
                )
        folder = self.path / "tasks" / task
        temporary = folder.with_name(f".{task}.{os.getpid()}.tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            columns = {}
            for name, column in (("rewards", rewards), ("masks", masks)):
                np.save(temporary / f"{name}.npy", np.asarray(column, np.float32))
                columns[name] = column_facts(temporary / f"{name}.npy")
            write_json(temporary / META, {"format": FORMAT, "kind": "task", "task": task, "columns": columns})
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        except OSError as error:
            raise ArtefactError(f"Could not write {folder}: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def verify(self) -> list[str]:
        """Names of columns whose bytes do not match their checksum (reads everything)."""
        return [n for n, facts in self.meta["columns"].items() if sha256(self.path / f"{n}.npy") != facts["sha256"]]


class StoreWriter:
    """Writes a store episode by episode; nothing is visible at ``path`` until ``commit``.

    with StoreWriter(path, action_low=..., action_high=..., source={...}) as writer:
        writer.append({"observations": (L, O), "actions": (L, A), ...})   # the last row's action is ignored
        store = writer.commit()
    """

    def __init__(self, path: Path | str, *, action_low, action_high, source: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._files: dict[str, Any] = {}
        self._facts: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._ends: list[int] = []
        self._rows = 0
        self._meta = {
            "action_low": [float(x) for x in np.asarray(action_low)],
            "action_high": [float(x) for x in np.asarray(action_high)],
            "source": dict(source),
        }

    def __enter__(self) -> Self:
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            # Closing flushes; on a full disk that fails again, and would hide the error that says what to do.
            with suppress(OSError):
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def append(self, episode: Mapping[str, np.ndarray]) -> None:
        """Append one episode: columns of equal length (at least 2 rows, the last one a state only)."""
        columns = {n: np.asarray(c, np.float32 if n in _CORE else None) for n, c in episode.items()}
        length = len(columns["observations"])
        if length < 2 or any(len(c) != length for c in columns.values()):
            raise DataError(
                f"Episode {len(self._ends)} has columns of lengths { {n: len(c) for n, c in columns.items()} }; "
                "they must be equal and at least 2 (the last row is the final state)."
            )
        if self._facts and set(columns) != set(self._facts):
            raise DataError(
                f"Episode {len(self._ends)} has columns {sorted(columns)}, earlier ones had {sorted(self._facts)}."
            )
        try:
            for name, column in columns.items():
                if name not in self._facts:
                    self._facts[name] = (column.dtype, column.shape[1:])
                    self._files[name] = open(self._temporary / f"{name}.npy", "wb")  # noqa: SIM115
                    write_header(self._files[name], column.dtype, (0, *column.shape[1:]))
                if self._facts[name] != (column.dtype, column.shape[1:]):
                    raise DataError(
                        f"{name} of episode {len(self._ends)} is {column.dtype}{column.shape[1:]}, "
                        f"earlier ones were {self._facts[name]}."
                    )
                self._files[name].write(np.ascontiguousarray(column).tobytes())
        except OSError as error:
            raise ArtefactError(
                f"Could not write {self.path}: {error.strerror or error}. Free some space or choose another folder."
            ) from error
        self._rows += length
        self._ends.append(self._rows)

    def commit(self) -> Store:
        """Finish the columns, write the index and the checksums, and move the store into place."""
        if not self._ends:
            raise DataError(f"No episode was written to {self.path}.")
        try:
            for name, file in self._files.items():
                dtype, shape = self._facts[name]
                file.seek(0)
                write_header(file, dtype, (self._rows, *shape))
                file.flush()
                os.fsync(file.fileno())
                file.close()
            np.save(self._temporary / f"{_ENDS}.npy", np.asarray(self._ends, np.int64))
            names = [*self._facts, _ENDS]
            columns = {name: column_facts(self._temporary / f"{name}.npy") for name in names}
            write_json(self._temporary / META, {**self._meta, "format": FORMAT, "kind": "store", "columns": columns})
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise ArtefactError(
                f"Could not write {self.path}: {error.strerror or error}. Free some space or choose another folder."
            ) from error
        return Store.open(self.path)


@dataclass(frozen=True)
class DataSet:
    """A named data set: a training store and, where there is one, a validation store."""

    name: str
    train: Store
    val: Store | None

    @property
    def origin(self) -> str:
        """The name it was made as, which tells its tasks whatever its folder is called; of other data the folder's."""
        return self.train.meta["source"].get("name", self.name)

    @staticmethod
    def open(name_or_path: str | Path) -> DataSet:
        """Open ``data/<name>`` or a folder; raises with the nearest known names if there is none."""
        path = Path(name_or_path)
        if not (path / "train" / META).exists():
            path = data_root() / name_or_path
        if not (path / "train" / META).exists():
            root = data_root()
            known = [p.parent.parent.name for p in root.glob(f"*/train/{META}")] if root.is_dir() else []
            raise unknown(
                "data set",
                str(name_or_path),
                known,
                "Make it: steerflow data make NAME; see all: steerflow data list",
            )
        val = path / "val"
        return DataSet(path.name, Store.open(path / "train"), Store.open(val) if (val / META).exists() else None)
