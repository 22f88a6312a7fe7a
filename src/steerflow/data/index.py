"""Which chunks a store offers, and what a chunk is worth: the one place where episode ends and success are decided.

An episode is rows s .. e-1; its last row e-1 is a state only. A chunk may start at any row that has an action. For a start
``i``, a chunk of ``chunk`` actions and a return over ``horizon`` >= chunk steps:

    steps      k = min(horizon, e-1-i)                          environment steps that the recording still holds
    alive_j    = prod_{l<j} mask_{i+l}                          1 until a step that ends the task (success is absorbing)
    returns    R = sum_{j<k} discount^j alive_j r_{i+j}
    bootstrap  B = discount^k prod_{l<k} mask_{i+l}             factor of V at the state k steps ahead
    step_mask  1 for actions i .. i+chunk-1 that lie in the recording; the others are 0 and enter no loss
    whole      1 if all of them do; else the chunk is no sample of Q(s, chunk)

The end of a recording is not a terminal state: it only shortens k, or unmakes the chunk. QGF's code keeps adding rewards
after a success inside the chunk; here the task is over then, as it is when the policy acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from steerflow.errors import DataError


class Windows(NamedTuple):
    """Rows picked from a store, before any arithmetic; numpy or jax arrays."""

    observations: Any  # (batch, observation)
    next_observations: Any  # (batch, observation): k steps ahead
    actions: Any  # (batch, chunk, action); steps beyond the recording hold its last row and are masked later
    rewards: Any  # (task, batch, horizon)
    masks: Any  # (task, batch, horizon)
    steps: Any  # (batch,): k


class Chunks(NamedTuple):
    """A batch as learners see it; jax arrays, all float32."""

    observations: Any  # (batch, observation)
    next_observations: Any  # (batch, observation)
    actions: Any  # (batch, chunk, action), 0 beyond the recording
    step_mask: Any  # (batch, chunk)
    whole: Any  # (batch,)
    returns: Any  # (task, batch)
    bootstrap: Any  # (task, batch)


class Columns(NamedTuple):
    """What chunks are made of; numpy, memory-mapped or jax arrays."""

    observations: Any  # (rows, observation)
    actions: Any  # (rows, action)
    rewards: Any  # (rows,) for each task
    masks: Any  # (rows,) for each task


@dataclass(frozen=True)
class ChunkIndex:
    """Maps chunk numbers 0 .. count-1 to rows. ``first_chunk[e]`` is the number of the first chunk of episode e."""

    first_chunk: np.ndarray
    episode_ends: np.ndarray
    count: int

    @staticmethod
    def of(episode_ends: np.ndarray) -> ChunkIndex:
        ends = np.asarray(episode_ends, np.int64)
        if len(ends) and ends[-1] > np.iinfo(np.int32).max:
            raise DataError("A store of more than 2,147,483,647 rows must be split in several.")
        actions = np.diff(ends, prepend=0) - 1
        first = np.concatenate([[0], np.cumsum(actions)[:-1]])
        return ChunkIndex(first.astype(np.int32), ends.astype(np.int32), int(actions.sum()))


def draw_numbers(seed, step, *, batch: int, count: int):
    """Chunk numbers (batch,) of the batch at ``step``, uniform over 0 .. count-1: a pure function of (seed, step)."""
    import jax

    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), step)
    return jax.random.randint(key, (batch,), 0, count, dtype=np.int32)


def chunk_rows(xp: ModuleType, numbers, first_chunk, episode_ends) -> tuple[Any, Any]:
    """(row, last state's row of its episode) of each chunk number. ``xp`` is numpy or jax.numpy."""
    episode = xp.searchsorted(first_chunk, numbers, side="right") - 1
    # Each earlier episode has one row without an action.
    return numbers + episode, episode_ends[episode] - 1


def pick_windows(xp: ModuleType, columns: Columns, rows, last, *, chunk: int, horizon: int) -> Windows:
    """The windows that start at ``rows`` of episodes whose last states are rows ``last``; both (batch,) integers."""
    steps = xp.minimum(horizon, last - rows)
    ahead = xp.arange(horizon, dtype=rows.dtype)
    window = xp.minimum(rows[:, None] + ahead[None], last[:, None])

    def take(column, rows):
        # All rows exist. Other modes check it, and numpy's indexing is several times slower than its take.
        return xp.take(column, rows, axis=0, mode="clip")

    def take_each(columns, rows):
        taken = [take(column, rows) for column in columns]
        return xp.stack(taken) if taken else xp.zeros((0, *rows.shape), xp.float32)

    return Windows(
        observations=take(columns.observations, rows),
        next_observations=take(columns.observations, rows + steps),
        actions=take(columns.actions, window[:, :chunk]),
        rewards=take_each(columns.rewards, window),
        masks=take_each(columns.masks, window),
        steps=steps,
    )


def to_chunks(windows: Windows, discount: float) -> Chunks:
    """Masks, returns and bootstrap factors by the formulas above; jax only, so that every feed gives the same bytes."""
    import jax.numpy as jnp

    chunk, horizon = windows.actions.shape[1], windows.rewards.shape[-1]
    inside = jnp.arange(horizon)[None] < windows.steps[:, None]
    survived = jnp.cumprod(jnp.where(inside, windows.masks, 1.0), axis=-1)
    alive = jnp.concatenate([jnp.ones_like(survived[..., :1]), survived[..., :-1]], axis=-1)
    powers = jnp.asarray(np.float64(discount) ** np.arange(horizon + 1), jnp.float32)
    step_mask = inside[:, :chunk].astype(jnp.float32)
    return Chunks(
        observations=windows.observations,
        next_observations=windows.next_observations,
        actions=jnp.where(inside[:, :chunk, None], windows.actions, 0.0),
        step_mask=step_mask,
        whole=step_mask[:, -1],
        returns=jnp.sum(powers[:-1] * alive * jnp.where(inside, windows.rewards, 0.0), axis=-1),
        bootstrap=powers[windows.steps] * survived[..., -1],
    )
