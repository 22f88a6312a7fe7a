"""Batches of chunks: drawn on the device from data that live there, or streamed from the memory-mapped store.

Both draw the same batch for the same (seed, step), uniformly over all chunks of the store. For n updates in one compiled
call, ``payload(first, n)`` runs outside: its leaves have leading axes (n, seed). Inside, ``windows(data, step, part)`` is
the batch of one seed at one step, for that seed's part of the payload; ``jax.vmap`` over the parts gives the batches of
all seeds, each the one that a run with that seed alone draws. ``data`` is passed to the call as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steerflow.data.index import ChunkIndex, Columns, Windows, chunk_rows, pick_windows
from steerflow.data.store import Store
from steerflow.machine import free_memory
from steerflow.spec import Normaliser, Spec

# A resident data set may take this share of the free memory.
_RESIDENT_SHARE = 1 / 3


def draw_numbers(seed, step, batch: int, count: int):
    """Chunk numbers of the batch at ``step``: a pure function of (seed, step)."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), step)
    return jax.random.randint(key, (batch,), 0, count, dtype=jnp.int32)


@dataclass
class ResidentFeed:
    """All columns on the device; a batch is drawn inside the compiled call, without any Python per step."""

    seeds: np.ndarray
    batch: int
    chunk: int
    horizon: int
    count: int
    data: Any

    @staticmethod
    def of(
        store: Store,
        spec: Spec,
        normaliser: Normaliser,
        tasks: Sequence[str],
        *,
        seeds: Sequence[int],
        batch: int,
        horizon: int,
    ) -> ResidentFeed:
        index = ChunkIndex.of(store.episode_ends)
        columns = Columns(
            observations=normaliser(np.asarray(store.observations)),
            actions=spec.scale_actions(np.asarray(store.actions)),
            **_rewards(store, tasks),
        )
        data = jax.device_put((columns, index.first_chunk, index.episode_ends))
        return ResidentFeed(_numbers(seeds), batch, spec.chunk, horizon, index.count, data)

    def payload(self, first: int, n: int) -> np.ndarray:
        """The seeds, for each step."""
        return np.broadcast_to(self.seeds, (n, len(self.seeds)))

    def windows(self, data: Any, step: Any, part: Any) -> Windows:
        columns, first_chunk, episode_ends = data
        numbers = draw_numbers(part, step, self.batch, self.count)
        rows, last = chunk_rows(jnp, numbers, first_chunk, episode_ends)
        return pick_windows(jnp, columns, rows, last, chunk=self.chunk, horizon=self.horizon)


@dataclass
class StreamFeed:
    """Batches read from the store by a thread that works one call ahead; memory holds two calls' batches."""

    store: Store
    spec: Spec
    normaliser: Normaliser
    tasks: Sequence[str]
    seeds: Sequence[int]
    batch: int
    horizon: int
    data: Any = None
    _ahead: dict[tuple[int, int], Future] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = ChunkIndex.of(self.store.episode_ends)
        self._columns = Columns(self.store.observations, self.store.actions, **_rewards(self.store, self.tasks))
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="steerflow-feed")
        draw = partial(draw_numbers, batch=self.batch, count=self._index.count)
        self._draw = jax.jit(jax.vmap(jax.vmap(draw, in_axes=(0, None)), in_axes=(None, 0)))

    def payload(self, first: int, n: int) -> Windows:
        ready = self._ahead.pop((first, n), None)
        windows = ready.result() if ready else self._read(first, n)
        self._ahead = {(first + n, n): self._reader.submit(self._read, first + n, n)}
        return windows

    def windows(self, data: Any, step: Any, part: Windows) -> Windows:
        return part

    def _read(self, first: int, n: int) -> Windows:
        numbers = np.asarray(self._draw(_numbers(self.seeds), np.arange(first, first + n, dtype=np.int32)))
        batches = []
        for row_numbers in numbers.reshape(-1, self.batch):
            rows, last = chunk_rows(np, row_numbers, self._index.first_chunk, self._index.episode_ends)
            picked = pick_windows(np, self._columns, rows, last, chunk=self.spec.chunk, horizon=self.horizon)
            batches.append(
                picked._replace(
                    observations=self.normaliser(picked.observations),
                    next_observations=self.normaliser(picked.next_observations),
                    actions=self.spec.scale_actions(picked.actions),
                )
            )
        stacked = Windows(*(np.stack(parts) for parts in zip(*batches, strict=True)))
        return jax.tree.map(lambda x: x.reshape(n, len(self.seeds), *x.shape[1:]), stacked)


Feed = ResidentFeed | StreamFeed


def make_feed(
    kind: str,
    store: Store,
    *,
    spec: Spec,
    normaliser: Normaliser,
    tasks: Sequence[str],
    seeds: Sequence[int],
    batch: int,
    horizon: int,
) -> Feed:
    """The feed named ``kind`` ("memory", "stream"), or for "auto" the one that this machine's memory allows."""
    if kind == "auto":
        # Twice: the columns as networks see them are made on the host and then put on the device.
        needed = 2 * resident_bytes(store, tasks)
        kind = "memory" if needed <= _RESIDENT_SHARE * _free_memory() else "stream"
    if kind == "memory":
        return ResidentFeed.of(store, spec, normaliser, tasks, seeds=seeds, batch=batch, horizon=horizon)
    return StreamFeed(store, spec, normaliser, tasks, seeds, batch, horizon)


def resident_bytes(store: Store, tasks: Sequence[str]) -> int:
    """Bytes that the columns take on the device, whatever the number of seeds: float32 but for the episode index."""
    dims = store.observations.shape[1] + store.actions.shape[1] + 2 * len(tasks)
    return 4 * (dims * store.rows + 2 * store.episodes)


def _numbers(seeds: Sequence[int]) -> np.ndarray:
    # As jax.random.key takes large seeds where 64-bit types are off.
    return np.asarray(seeds, np.int64).astype(np.int32)


def _rewards(store: Store, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    pairs = [store.rewards(task) for task in tasks]
    if not pairs:
        none = np.zeros((0, store.rows), np.float32)
        return {"rewards": none, "masks": none}
    if len(pairs) == 1:
        # A view: the memory map stays one.
        return {"rewards": pairs[0][0][None], "masks": pairs[0][1][None]}
    return {"rewards": np.stack([r for r, _ in pairs]), "masks": np.stack([m for _, m in pairs])}


def _free_memory() -> float:
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_memory() or float("inf")
