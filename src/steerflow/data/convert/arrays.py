"""Plain npz and HDF5 files whose rows all hold a step, such as D4RL's; other names through a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.data.convert.extras import require
from steerflow.data.convert.mapping import resolve
from steerflow.data.convert.npz import BLOCK_ROWS, Column, npz_blocks, npz_columns, npz_whole
from steerflow.data.convert.recording import Block, Recording
from steerflow.errors import ArtefactError, DataError

HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
# Parts that hold one mark per row and are needed to cut episodes, even in a first pass.
MARKS = ("terminals", "timeouts", "episode_index")


def open_arrays(source: Path, mapping: Mapping[str, str] | None = None) -> Recording:
    """A file of columns with one row per step: ``mapping`` names them (ours to theirs), see ``mapping.resolve``.

    terminals: the step ended the task for good. timeouts: the recording ended there, the task did not. episode_ends:
    (episodes,) row numbers, exclusive. episode_index: (rows,) the number of the episode. Image and object columns are refused.
    """
    hdf5 = source.suffix.lower() in HDF5_SUFFIXES
    columns = _hdf5_columns(source) if hdf5 else npz_columns(source)
    parts = resolve(columns, mapping, source.name)
    ends_name = parts.pop("episode_ends", None)
    rows = columns[parts["observations"][0]].rows
    for part, names in parts.items():
        for name in names:
            if columns[name].dtype.kind not in "fiub":
                raise DataError(f"Column {name!r} of {source} is {columns[name]}; {part} must be numbers.")
            if columns[name].rows != rows:
                raise DataError(
                    f"Column {name!r} of {source} has {columns[name].rows} rows, {parts['observations'][0]!r} has {rows}."
                )
    ends = (
        None
        if ends_name is None
        else _episode_ends(_whole(source, ends_name[0], hdf5), rows, f"{ends_name[0]} of {source}")
    )

    def blocks(wanted: tuple[str, ...] | None) -> Iterator[Block]:
        chosen = {part: names for part, names in parts.items() if wanted is None or part in wanted or part in MARKS}
        names = tuple(dict.fromkeys(name for names in chosen.values() for name in names))
        row, last = 0, None
        for block in _hdf5_blocks(source, names) if hdf5 else npz_blocks(source, names):
            made = {part: join([block[name] for name in names], part) for part, names in chosen.items()}
            marked, fresh = mark_ends(made, last)
            last = made["episode_index"][-1] if "episode_index" in made else None
            if ends is not None:
                marked[ends[(ends > row) & (ends <= row + len(marked))] - 1 - row] = True
            yield Block(
                source.name,
                row,
                {p: c for p, c in made.items() if p not in ("timeouts", "episode_index")},
                marked,
                fresh,
            )
            row += len(marked)

    kept = tuple(part for part in parts if part not in ("timeouts", "episode_index"))
    return Recording("arrays", (source,), rows, kept, "step", blocks)


def join(columns: list[np.ndarray], part: str) -> np.ndarray:
    """Columns side by side as (rows, dimensions); the parts that hold one number per row as (rows,)."""
    flat = [column.reshape(len(column), -1) for column in columns]
    joined = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    if part not in ("rewards", *MARKS):
        return joined
    if joined.shape[1] != 1:
        raise DataError(f"{part} must be one number per row, but {joined.shape[1]} were found; map another column.")
    return joined[:, 0]


def mark_ends(columns: Mapping[str, np.ndarray], last: Any) -> tuple[np.ndarray, bool]:
    """(ends, fresh) of a block, from its terminals, timeouts and episode_index; ``last`` is the index of the row before it."""
    marked = np.zeros(len(columns[next(iter(columns))]), bool)
    for part in ("terminals", "timeouts"):
        if part in columns:
            marked |= columns[part] > 0.5
    fresh = False
    if "episode_index" in columns:
        index = columns["episode_index"]
        marked[:-1] |= index[1:] != index[:-1]
        fresh = last is not None and index[0] != last
    return marked, fresh


def _episode_ends(ends: np.ndarray, rows: int, where: str) -> np.ndarray:
    ends = np.asarray(ends).reshape(-1)
    if (
        ends.dtype.kind not in "iu"
        or len(ends) == 0
        or ends[0] < 1
        or (np.diff(ends.astype(np.int64)) < 1).any()
        or ends[-1] != rows
    ):
        hint = " They look inclusive: add 1 to each." if len(ends) and ends[-1] == rows - 1 else ""
        raise DataError(
            f"{where} must be increasing row numbers, exclusive, the last one {rows} (the number of rows).{hint}"
        )
    return ends.astype(np.int64)


def _whole(source: Path, name: str, hdf5: bool) -> np.ndarray:
    if not hdf5:
        return npz_whole(source, name)
    with _hdf5(source) as file:
        return np.asarray(file[name])


def _hdf5_columns(source: Path) -> dict[str, Column]:
    found = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            found[name] = Column(item.dtype, item.shape)

    with _hdf5(source) as file:
        file.visititems(visit)
    if not found:
        raise DataError(f"{source} holds no data sets.")
    return found


def _hdf5_blocks(source: Path, names: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
    with _hdf5(source) as file:
        for begin in range(0, len(file[names[0]]), BLOCK_ROWS):
            yield {name: np.asarray(file[name][begin : begin + BLOCK_ROWS]) for name in names}


@contextmanager
def _hdf5(source: Path) -> Iterator[Any]:
    h5py = require("h5py", "Reading HDF5")
    if not source.exists():
        raise ArtefactError(f"There is no file {source}.")
    try:
        with h5py.File(source, "r") as file:
            yield file
    except OSError as error:
        raise ArtefactError(
            f"{source} cannot be read as HDF5 ({error}): it was truncated, edited, or is something else. Copy it again."
        ) from error
