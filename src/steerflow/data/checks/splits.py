"""Two splits of one data set: the same spaces, no episode in both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from steerflow.data.checks.finding import Finding
from steerflow.data.store import Store

_HASHED_ROWS = 8


def check_spaces(train: Store, val: Store) -> Iterator[Finding]:
    """Other dimensions, bounds, columns or tasks in val than in train."""
    again = "Import or make both splits together."
    for column in ("observations", "actions"):
        one, other = getattr(train, column).shape[1], getattr(val, column).shape[1]
        if one != other:
            yield Finding("error", column, f"val has {other} dimensions, train {one}. {again}", "val")
    if train.meta["action_low"] != val.meta["action_low"] or train.meta["action_high"] != val.meta["action_high"]:
        yield Finding("error", "actions", f"The action bounds of val are not those of train. {again}", "val")
    if set(train.info) != set(val.info):
        other = sorted(set(train.info) ^ set(val.info))
        yield Finding("warning", other[0], f"Only one of the splits has the columns {', '.join(other)}. {again}", "val")
    lacking = sorted(set(train.tasks) - set(val.tasks))
    if lacking:
        message = f"val lacks the rewards of {', '.join(lacking)}; validation losses of their critics will be missing."
        yield Finding("warning", f"tasks/{lacking[0]}", message, "val")


def check_overlap(train: Store, val: Store) -> Iterator[Finding]:
    """Episodes that are in both splits, found by their first rows and compared in full."""
    if train.observations.shape[1] != val.observations.shape[1]:
        return
    known: dict[bytes, list[int]] = {}
    for episode in range(val.episodes):
        known.setdefault(_start_of(val, episode), []).append(episode)
    pairs = ((one, other) for one in range(train.episodes) for other in known.get(_start_of(train, one), ()))
    both = [(one, other) for one, other in pairs if _equal(train, one, val, other)]
    if both:
        message = f"{len(both):,} episodes are in both splits ({both[0][0]} of train is {both[0][1]} of val); validation losses "
        yield Finding(
            "error", "episode_ends", message + "will look better than they are. Import again with another split.", "val"
        )


def _equal(train: Store, one: int, val: Store, other: int) -> bool:
    columns = ("observations", "actions")
    return all(np.array_equal(_part(train, one, column), _part(val, other, column)) for column in columns)


def _part(store: Store, episode: int, column: str) -> np.ndarray:
    return np.asarray(getattr(store, column)[store.episode_starts[episode] : store.episode_ends[episode]])


def _start_of(store: Store, episode: int) -> bytes:
    begin, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
    rows = np.asarray(store.observations[begin : min(end, begin + _HASHED_ROWS)])
    return hashlib.sha256(rows.tobytes() + (end - begin).to_bytes(8, "little")).digest()
