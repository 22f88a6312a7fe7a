"""Minari data sets on this machine, by folder or by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.data.convert.extras import require
from steerflow.data.convert.recording import Block, Recording
from steerflow.errors import ArtefactError, DataError, unknown


def open_minari(source: Path | str, mapping: Mapping[str, str] | None = None) -> Recording:
    """A Minari data set: its folder, or its id (such as ``D4RL/pen/human-v2``) among those that Minari has downloaded.

    Minari stores the final state, so no step is lost; ``terminations`` end the task, truncations do not. Observations that
    are dictionaries need a mapping, such as ``observations=observation,desired_goal``. Actions must be a Box.
    """
    minari = require("minari", "Reading Minari data", extra="minari")
    require("h5py", "Reading Minari data", extra="minari")
    data = _load(minari, source)
    spec = data.spec
    bounds = getattr(spec.action_space, "low", None), getattr(spec.action_space, "high", None)
    if bounds[0] is None or bounds[1] is None:
        raise DataError(f"The actions of {source} are {spec.action_space}; steerflow needs continuous actions (a Box).")
    keys = _keys(spec.observation_space, mapping, str(source))
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in bounds)
    finite = np.isfinite(low).all() and np.isfinite(high).all()

    def blocks(wanted: tuple[str, ...] | None) -> Iterator[Block]:
        for episode in data.iterate_episodes():
            steps = len(episode.actions)
            columns = {
                "actions": _padded(np.asarray(episode.actions).reshape(steps, -1)),
                "rewards": _padded(np.asarray(episode.rewards)),
                "terminals": _padded(np.asarray(episode.terminations)),
            }
            if wanted is None or "observations" in wanted:
                columns["observations"] = _observations(episode.observations, keys, steps + 1)
            ends = np.zeros(steps + 1, bool)
            ends[-1] = True
            kept = {name: column for name, column in columns.items() if wanted is None or name in wanted}
            yield Block(f"episode {episode.id} of {data.id}", 0, kept, ends)

    rows = int(data.total_steps) + int(data.total_episodes)
    facts = {"id": data.id, "environment": spec.env_spec.id if spec.env_spec else None}
    columns = ("observations", "actions", "rewards", "terminals")
    files = (Path(spec.data_path),)
    return Recording(
        "minari", files, rows, columns, "state", blocks, bounds=(low, high) if finite else None, facts=facts
    )


def _load(minari: Any, source: Path | str) -> Any:
    folder = Path(source)
    for candidate in (folder, folder / "data"):
        if (candidate / "metadata.json").exists():
            folder = candidate
            break
    else:
        if folder.exists():
            raise DataError(f"{folder} is no Minari data set: it has no data/metadata.json.")
        known = list(minari.list_local_datasets())
        if str(source) not in known:
            raise unknown("Minari data set", str(source), known, f"Download it first: minari download {source}")
        return minari.load_dataset(str(source))
    try:
        return minari.MinariDataset(folder)
    except (ValueError, KeyError, OSError) as error:
        raise ArtefactError(
            f"{folder} cannot be read as a Minari data set ({error}). Download or copy it again."
        ) from error


def _keys(space: Any, mapping: Mapping[str, str] | None, source: str) -> tuple[str, ...]:
    entries = getattr(space, "spaces", None)
    others = set(mapping or {}) - {"observations"}
    if others:
        raise DataError(
            f"Minari names everything itself but parts of observations; {sorted(others)[0]!r} cannot be mapped."
        )
    if entries is None:
        if mapping:
            raise DataError(f"The observations of {source} are one array; leave --map observations out.")
        return ()
    chosen = tuple(name.strip() for name in (mapping or {}).get("observations", "").split(",") if name.strip())
    if not chosen:
        raise DataError(
            f"The observations of {source} have several parts. Choose some: --map observations={','.join(entries)}"
        )
    for name in chosen:
        if name not in entries:
            raise unknown("part of the observations", name, entries)
    return chosen


def _observations(observations: Any, keys: tuple[str, ...], rows: int) -> np.ndarray:
    parts = [observations[key] for key in keys] if keys else [observations]
    return np.concatenate([np.asarray(part).reshape(rows, -1) for part in parts], axis=1)


def _padded(column: np.ndarray) -> np.ndarray:
    """One more row, of zeros, for the final state."""
    return np.concatenate([column, np.zeros_like(column[:1])])
