"""Foreign data become a data set of steerflow's: two passes, one to count, one to write."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.artefact import META
from steerflow.data.convert.bounds import Bound, action_bounds
from steerflow.data.convert.folder import data_folder, fresh_folder, replace_folder
from steerflow.data.convert.formats import open_recording, open_val
from steerflow.data.convert.recording import Episode, Recording, episodes
from steerflow.data.store import DataSet, Store, StoreWriter
from steerflow.envs.tasks import canonical_data_name
from steerflow.errors import ArtefactError, DataError, MismatchError
from steerflow.progress import Bar, bar, console
from steerflow.spec import Spec


def import_data(
    source: Path | str,
    *,
    name: str,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    val: Path | str | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    action_low: Bound = None,
    action_high: Bound = None,
    task: str | None = None,
    out: Path | str | None = None,
    force: bool = False,
) -> DataSet:
    """Convert ``source`` to the data set ``name`` (in ``data_root()/name``, or ``out``, a folder or another name) and open it.

    source: OGBench npz file or folder of slices; npz or HDF5 file of columns (``mapping`` from our names to the file's); Minari
    folder or id; LeRobot folder. ``format`` is one of ``convert.FORMATS``. See ``convert.recording.episodes`` for what becomes
    of the last row of an episode, ``convert.bounds.action_bounds`` for the action bounds.

    Validation split: ``val`` if given (a second source of the same kind), else OGBench's ``-val`` files where they lie beside
    the source, else ``val_fraction`` of the episodes (whole ones, drawn with ``seed``; at least one of two or more).
    Rewards in the source become the task ``task`` (named like the data set by default) with masks = 1 - terminals.

    The source is streamed; memory is needed for one block of rows and one episode. Nothing is visible at the destination
    before all is written. Done before with the same source and settings, it returns what is there; another data set of that
    name is replaced only with ``force``. Raises DataError (what is wrong where), ArtefactError (damaged files, full disk).
    """
    if not name or "/" in name or "\\" in name or name.startswith("."):
        raise DataError(
            f"{name!r} cannot be the name of a data set: it becomes a folder. Use letters, digits and dashes."
        )
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction must be at least 0 and below 1, not {val_fraction}.")
    name = canonical_data_name(name)
    out = data_folder(name, out)
    train = open_recording(source, format, mapping)
    held_out = open_val(train, source, format, val, mapping)
    request = {
        "format": train.format,
        "files": _listed(train) + (_listed(held_out) if held_out else []),
        "mapping": dict(mapping or {}),
        "val": "files" if held_out else {"fraction": val_fraction, "seed": seed},
        "task": task or name,
        "bounds": None
        if action_low is None
        else [np.asarray(b, float).reshape(-1).tolist() for b in (action_low, action_high)],
    }
    if (out / "train" / META).exists() and not force:
        present = DataSet.open(out)
        if present.train.meta.get("source", {}).get("request") == request:
            return present
        raise DataError(f"There is another data set at {out}. Choose another --name, or replace it with --force.")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "train").exists())):
        raise DataError(
            f"{out} exists and is no data set; steerflow does not replace it. Choose another --name or --out."
        )

    scan = _scan(name, train, held_out)
    low, high, origin = action_bounds(
        scan.smallest,
        scan.largest,
        low=action_low,
        high=action_high,
        space=train.bounds,
        unit=train.format == "ogbench",
    )
    # Found out now rather than after hours of writing.
    Spec(1, len(low), 1, tuple(float(x) for x in low), tuple(float(x) for x in high))
    facts = {"kind": "imported", "request": request, "action_bounds": origin, **train.facts}
    temporary = fresh_folder(out)
    try:
        with ExitStack() as stack:
            total = train.rows + (held_out.rows if held_out else 0)
            written = _Progress(stack.enter_context(bar(f"Import {name}", total)), total)
            splits = {"train": _Split(stack, temporary / "train", low, high, facts)}
            chosen = set() if held_out else _held_out_episodes(scan.episodes, val_fraction, seed)
            if held_out or chosen:
                splits["val"] = _Split(stack, temporary / "val", low, high, facts)
            tally = Counter()
            for number, episode in enumerate(episodes(train, tally=tally)):
                splits["val" if number in chosen else "train"].append(episode)
                written.add(episode)
            for episode in episodes(held_out) if held_out else ():
                splits["val"].append(episode)
                written.add(episode)
            for split in splits.values():
                split.commit(task or name)
        replace_folder(out, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    data = DataSet.open(out)
    _report(data, train, tally, scan, origin)
    return data


_ORIGINS = {
    "given": "as given",
    "space": "of the source's action space",
    "unit": "[-1, 1]",
    "observed": "observed in the data, slightly widened",
}


@dataclass(frozen=True)
class _Scan:
    """What the first pass finds out: the number of training episodes and the range of all actions."""

    episodes: int
    smallest: np.ndarray
    largest: np.ndarray


def _scan(name: str, train: Recording, held_out: Recording | None) -> _Scan:
    counts, smallest, largest = [], None, None
    total = train.rows + (held_out.rows if held_out else 0)
    with bar(f"Read {name}", total) as progress:
        seen = _Progress(progress, total)
        for recording in (train, held_out) if held_out else (train,):
            count = 0
            for episode in episodes(recording, light=True):
                steps = _matrix("actions", episode.columns["actions"])[:-1].astype(np.float64)
                low, high = steps.min(axis=0), steps.max(axis=0)
                if smallest is not None and largest is not None:
                    if len(low) != len(smallest):
                        raise MismatchError(
                            f"Actions have {len(smallest)} dimensions in one split and {len(low)} in the other."
                        )
                    low, high = np.minimum(low, smallest), np.maximum(high, largest)
                smallest, largest, count = low, high, count + 1
                seen.add(episode)
            counts.append(count)
    if smallest is None or largest is None or counts[0] == 0:
        raise DataError(f"{train.files[0]} holds no episode with a usable step.")
    return _Scan(counts[0], smallest, largest)


class _Split:
    """One store being written, and the rewards that join it at the end: on disk until then, as they grow with the data."""

    def __init__(
        self, stack: ExitStack, path: Path, low: np.ndarray, high: np.ndarray, facts: Mapping[str, Any]
    ) -> None:
        self._writer = stack.enter_context(StoreWriter(path, action_low=low, action_high=high, source=facts))
        # Without a name: gone when closed, also in a process that is killed.
        self._rewards = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))  # noqa: SIM115
        self._masks = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))  # noqa: SIM115

    def append(self, episode: Episode) -> None:
        columns = dict(episode.columns)
        for name in ("observations", "actions"):
            columns[name] = _matrix(name, columns[name])
        self._writer.append(columns)
        if episode.rewards is not None and episode.masks is not None:
            try:
                self._rewards.write(episode.rewards.tobytes())
                self._masks.write(episode.masks.tobytes())
            except OSError as error:
                raise ArtefactError(
                    f"Could not write the rewards: {error.strerror or error}. Free some space or choose another folder."
                ) from error

    def commit(self, task: str) -> None:
        store = self._writer.commit()
        if self._rewards.tell():
            store.add_task(task, np.memmap(self._rewards, np.float32, "r"), np.memmap(self._masks, np.float32, "r"))


class _Progress:
    def __init__(self, progress: Bar, total: int) -> None:
        self._progress, self._total, self._rows = progress, total, 0

    def add(self, episode: Episode) -> None:
        # A source whose steps carry their next state has fewer rows than the store.
        self._rows = min(self._total, self._rows + len(episode.columns["actions"]))
        self._progress.update(self._rows)


def _matrix(name: str, column: np.ndarray) -> np.ndarray:
    if column.ndim == 1:
        return column[:, None]
    if column.ndim > 2:
        raise DataError(
            f"{name} are arrays of shape {column.shape[1:]} per row (pictures?); only vectors are supported. Use the states."
        )
    return column


def _held_out_episodes(total: int, fraction: float, seed: int) -> set[int]:
    count = min(max(round(total * fraction), 1), total - 1) if fraction > 0 else 0
    return set(np.random.default_rng(seed).permutation(total)[:count].tolist())


def _listed(recording: Recording) -> list[list[Any]]:
    """Names and sizes: enough to see that a source is another one, without reading it."""
    return [[file.name, file.stat().st_size] for file in recording.files]


def _report(data: DataSet, recording: Recording, tally: Counter, scan: _Scan, origin: str) -> None:
    def say(line: str) -> None:
        console().print(line, markup=False, highlight=False, soft_wrap=True)

    splits: list[Store] = [store for store in (data.train, data.val) if store is not None]
    sizes = " + ".join(f"{store.transitions:,} steps in {_count(store.episodes, 'episode')}" for store in splits)
    say(f"{data.name}: {sizes} ({recording.format}).")
    low, high = data.train.action_bounds
    shown = f": {low.tolist()} to {high.tolist()}" if len(low) <= 4 and origin != "unit" else ""
    say(f"Action bounds {_ORIGINS[origin]}{shown}.")
    if origin == "observed":
        say("If you know the robot's limits, import again with --action-low and --action-high.")
    elif ((scan.smallest < low) | (scan.largest > high)).any():
        say("Some actions lie outside the bounds and will be clipped; see steerflow data check.")
    if tally["cut"]:
        say(
            f"The next observation was not that of the next row at {_count(tally['cut'], 'place')}; episodes were ended there."
        )
    if tally["short"]:
        say(f"{_count(tally['short'], 'episode')} without a usable step left out.")
    for note in recording.notes:
        say(note)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
