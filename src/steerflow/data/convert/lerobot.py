"""LeRobot's parquet files, v2.1 (one per episode) and v3 (many episodes per file); videos are not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.artefact import read_json
from steerflow.data.convert.arrays import join
from steerflow.data.convert.extras import require
from steerflow.data.convert.mapping import resolve
from steerflow.data.convert.npz import BLOCK_ROWS
from steerflow.data.convert.recording import Block, Recording
from steerflow.errors import ArtefactError, DataError

_NAMES = {
    "observations": "observation.state",
    "actions": "action",
    "rewards": "next.reward",
    "terminals": "next.success",
    "episode_index": "episode_index",
}


def open_lerobot(source: Path, mapping: Mapping[str, str] | None = None) -> Recording:
    """A LeRobot data set (the folder with ``meta`` and ``data``), a folder of ``episode_*.parquet``, or one parquet file.

    observation.state, action and episode_index are read, and next.reward where there is one. ``next.success`` ends the task;
    ``next.done`` only says that the recording stopped (map it, ``terminals=next.done``, where it means more). A gap in
    ``frame_index`` ends an episode, because the frames on its two sides are no transition. ``mapping`` adds or replaces
    columns: ``observations=observation.state,observation.environment_state``.
    """
    files = _files(source)
    with _parquet(files[0]) as first:
        schema = first.schema_arrow
        types = {field.name: field.type for field in schema}
    defaults = {ours: theirs for ours, theirs in _NAMES.items() if theirs in types}
    parts = resolve(types, {**defaults, **(mapping or {})}, files[0].name)
    if "episode_index" not in parts:
        raise DataError(f"{files[0]} has no episode_index; name the column: --map episode_index=NAME.")
    for unused in ("timeouts", "episode_ends"):
        parts.pop(unused, None)
    rows = 0
    for file in files:
        with _parquet(file) as table:
            rows += table.metadata.num_rows
            lacking = [n for names in parts.values() for n in names if n not in table.schema_arrow.names]
            if lacking:
                raise DataError(
                    f"{file} has no column {lacking[0]!r}, which {files[0].name} has; remove or replace that file."
                )
    frame = ("frame_index",) if "frame_index" in types else ()

    def blocks(wanted: tuple[str, ...] | None) -> Iterator[Block]:
        chosen = {p: names for p, names in parts.items() if wanted is None or p in wanted or p == "episode_index"}
        names = tuple(dict.fromkeys([*(name for names in chosen.values() for name in names), *frame]))
        last = None
        for file in files:
            row = 0
            with _parquet(file) as table:
                for batch in table.iter_batches(batch_size=BLOCK_ROWS, columns=list(names)):
                    read = {name: _numbers(batch.column(name), f"{name} of {file}", row) for name in names}
                    made = {part: join([read[name] for name in theirs], part) for part, theirs in chosen.items()}
                    frames = read["frame_index"][:, 0] if frame else np.zeros(batch.num_rows)
                    # An episode goes on where its index is the same and the frame is the next one.
                    place, step = np.stack([made.pop("episode_index"), frames], axis=1), (0, len(frame))
                    ends = np.zeros(len(place), bool)
                    ends[:-1] = (place[1:] != place[:-1] + step).any(axis=1)
                    yield Block(file.name, row, made, ends, last is not None and bool((place[0] != last + step).any()))
                    last = place[-1]
                    row += len(place)

    kept = tuple(part for part in parts if part != "episode_index")
    facts, notes = _about(source, types)
    return Recording("lerobot", files, rows, kept, "step", blocks, facts=facts, notes=notes)


def _files(source: Path) -> tuple[Path, ...]:
    if source.is_file():
        return (source,)
    folder = source / "data" if (source / "data").is_dir() else source
    files = tuple(
        sorted(file for file in folder.rglob("*.parquet") if "meta" not in file.relative_to(folder).parts[:-1])
    )
    if not files:
        raise DataError(f"There is no parquet file in {folder}. A LeRobot data set has data/chunk-000/*.parquet.")
    return files


def _about(source: Path, types: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    meta = source / "meta" / "info.json"
    info = read_json(meta) if meta.exists() else {}
    features = info.get("features", {})
    seen = {
        name for name, facts in features.items() if isinstance(facts, dict) and facts.get("dtype") in ("video", "image")
    }
    seen |= {name for name in types if name.startswith("observation.image")}
    notes = [f"Pictures are not read: {', '.join(sorted(seen))}."] if seen else []
    if "next.done" in types and "next.success" not in types:
        notes.append(
            "next.done is read as the end of the recording, not of the task; if it means success: --map terminals=next.done"
        )
    names = ("codebase_version", "robot_type", "fps", "total_episodes")
    return {name: info[name] for name in names if name in info}, tuple(notes)


def _numbers(column: Any, where: str, row: int) -> np.ndarray:
    """An arrow array of numbers, or of equally long (nested) lists of numbers, as (rows, dimensions)."""
    types = require("pyarrow", "Reading parquet").types
    rows = len(column)
    while types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        if column.null_count:
            raise DataError(f"{where} is empty near row {row}; leave that episode out.")
        lengths = np.asarray(require("pyarrow.compute", "Reading parquet").list_value_length(column))
        if len(lengths) and (lengths != lengths[0]).any():
            raise DataError(
                f"{where} has rows of {lengths.min()} and of {lengths.max()} numbers; they must be equally long."
            )
        column = column.flatten()
    if not (types.is_floating(column.type) or types.is_integer(column.type) or types.is_boolean(column.type)):
        raise DataError(f"{where} is {column.type}, not numbers; map another column.")
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(rows, -1)


@contextmanager
def _parquet(file: Path) -> Iterator[Any]:
    parquet = require("pyarrow.parquet", "Reading parquet")
    damaged = (require("pyarrow", "Reading parquet").ArrowInvalid, OSError)
    if not file.exists():
        raise ArtefactError(f"There is no file {file}.")
    try:
        with parquet.ParquetFile(file) as table:
            yield table
    except damaged as error:
        raise ArtefactError(
            f"{file} cannot be read as parquet ({error}): it was truncated, edited, or is something else. Copy it again."
        ) from error
