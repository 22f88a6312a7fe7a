"""What every format is turned into: blocks of rows, cut into episodes whose last row is a state only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steerflow.errors import DataError

# Columns of a block that are read for their meaning and not stored under their own name.
STEP_COLUMNS = ("rewards", "terminals", "next_observations")
# What counting episodes and finding action bounds needs; a first pass reads no more than this.
LIGHT = ("actions", "terminals", "next_observations")


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source. ``ends`` (rows,) bool marks the last row of an episode; ``fresh`` says that the first
    row begins an episode even if the block before did not mark its end.

    columns: observations (rows, O), actions (rows, A); optional rewards, terminals (rows,): the step from this row ended
    the task for good; optional next_observations (rows, O); any other column is stored beside (qpos, qvel, ...).
    """

    file: str
    row: int
    columns: dict[str, np.ndarray]
    ends: np.ndarray
    fresh: bool = False


@dataclass(frozen=True)
class Recording:
    """A source that was opened: its facts, and a way to stream its blocks as often as needed.

    ``last_row`` says what the last row of an episode is: "state" = a final state whose action means nothing (OGBench,
    Minari); "step" = a step like the others, after which the state is known only from next_observations, if at all.
    ``blocks(names)`` yields only the named columns, or all of them for None.
    """

    format: str
    files: tuple[Path, ...]
    rows: int
    columns: tuple[str, ...]
    last_row: Literal["state", "step"]
    blocks: Callable[[tuple[str, ...] | None], Iterator[Block]]
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Episode:
    """Columns with the final state as last row; rewards and masks as in a store, where the source has rewards."""

    columns: dict[str, np.ndarray]
    rewards: np.ndarray | None
    masks: np.ndarray | None


def episodes(recording: Recording, *, light: bool = False, tally: Counter | None = None) -> Iterator[Episode]:
    """Cut a recording into episodes, with memory for one block and one episode.

    * last_row "state": rows are kept as they are; the action of the last row is set to 0.
    * last_row "step" with next observations: that of the last row becomes the final state. Where the next observation of a
      row is not the observation of the following row, an end of an episode was not marked: the recording is cut there.
    * last_row "step" without them: the state after the last action is unknown, so the last row's action is dropped and its
      state becomes the final one. If that action ended the task (terminals), it is kept and the state is repeated: the value
      of a state behind a terminal step is never used, but its reward is.

    ``light`` reads only what the number of episodes and the action bounds depend on. ``tally`` counts "cut" and "short"
    (episodes without a single usable action, left out) and "open" (no end marked). Raises DataError for NaN and infinity,
    naming the column, the row and the dimension.
    """
    tally = Counter() if tally is None else tally
    names = None
    if light:
        needed = ("observations", *LIGHT) if "next_observations" in recording.columns else LIGHT
        names = tuple(n for n in needed if n in recording.columns)
    pending: list[Block] = []
    for block in recording.blocks(names):
        if block.fresh and pending:
            yield from _finish(recording, pending, tally)
            pending = []
        begin = 0
        for end in (*(np.flatnonzero(block.ends) + 1).tolist(), len(block.ends)):
            if end > begin:
                part = {name: column[begin:end] for name, column in block.columns.items()}
                pending.append(Block(block.file, block.row + begin, part, block.ends[begin:end]))
            if pending and pending[-1].ends[-1]:
                yield from _finish(recording, pending, tally)
                pending = []
            begin = end
    if pending:
        tally["open"] += 1
        yield from _finish(recording, pending, tally)


def _finish(recording: Recording, parts: list[Block], tally: Counter) -> Iterator[Episode]:
    columns = parts[0].columns
    if len(parts) > 1:
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in columns}
    cuts = [0, *_breaks(columns), len(columns["actions"])]
    tally["cut"] += len(cuts) - 2
    for begin, end in pairwise(cuts):
        piece = {name: column[begin:end] for name, column in columns.items()}
        where = (parts[0].file, parts[0].row + begin)
        episode = _as_states(recording, piece) if recording.last_row == "step" else _episode(piece, end - begin - 1)
        if episode is None:
            tally["short"] += 1
        else:
            _require_finite(episode, piece, where)
            yield episode


def _breaks(columns: Mapping[str, np.ndarray]) -> list[int]:
    """Rows at which a new episode begins although none was marked."""
    if "next_observations" not in columns:
        return []
    left, right = columns["next_observations"][:-1], columns["observations"][1:]
    # NaN counts as equal here: it is reported as NaN, not as an end of an episode.
    differs = np.abs(left - right) > 1e-5 * (1 + np.abs(right))
    return [int(row) + 1 for row in np.flatnonzero(differs.any(axis=1))]


def _as_states(recording: Recording, rows: dict[str, np.ndarray]) -> Episode | None:
    """Rows that all hold a step, with a final state added or the last action dropped."""
    length = len(rows["actions"])
    terminal = "terminals" in rows and rows["terminals"][-1] > 0.5
    if "next_observations" not in recording.columns and not terminal:
        return _episode(rows, length - 1)
    extended = {name: np.concatenate([column, column[-1:]]) for name, column in rows.items()}
    if "next_observations" in rows:
        extended["observations"][-1] = rows["next_observations"][-1]
    return _episode(extended, length)


def _episode(rows: dict[str, np.ndarray], steps: int) -> Episode | None:
    """rows (steps + 1) of which the first ``steps`` hold a step."""
    if steps < 1:
        return None
    columns = {name: column for name, column in rows.items() if name not in STEP_COLUMNS}
    # The last row's action means nothing; official files hold NaN or leftovers there.
    columns["actions"] = np.array(columns["actions"])
    columns["actions"][-1] = 0
    rewards = masks = None
    if "rewards" in rows:
        rewards = np.array(rows["rewards"], np.float32)
        rewards[-1] = 0
        masks = np.ones(steps + 1, np.float32)
        if "terminals" in rows:
            masks[:-1] = rows["terminals"][:-1] <= 0.5
            masks[-1] = masks[-2]
    return Episode(columns, rewards, masks)


def _require_finite(episode: Episode, rows: Mapping[str, np.ndarray], where: tuple[str, int]) -> None:
    checked = dict(episode.columns)
    if episode.rewards is not None:
        checked["rewards"] = episode.rewards
    for name, column in checked.items():
        if column.dtype.kind != "f" or np.isfinite(column).all():
            continue
        row, *rest = (int(i) for i in np.argwhere(~np.isfinite(column))[0])
        value = column[(row, *rest)]
        if name == "observations" and row >= len(rows["actions"]):
            name, row = "next_observations", row - 1
        dimension = f", dimension {rest[0]}" if rest else ""
        raise DataError(
            f"{name} holds {value} at row {where[1] + row}{dimension} of {where[0]}. Repair that value or leave the episode out, "
            "then import again."
        )
