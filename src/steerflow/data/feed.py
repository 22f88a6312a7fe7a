"""Batches of chunks: drawn on the device from data that live there, or streamed from the memory-mapped store.

Both draw the same batch for the same (seed, step), uniformly over all chunks of the store. For n updates in one compiled
call, ``payload(first, n)`` runs outside: its leaves have leading axes (n, seed). Inside, ``windows(data, step, part)`` is
the batch of one seed at one step, for that seed's part of the payload; ``jax.vmap`` over the parts gives the batches of
all seeds, each the one that a run with that seed alone draws. ``data`` is passed to the call as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steerflow.data.index import ChunkIndex, Columns, Windows, chunk_rows, draw_numbers, pick_windows
from steerflow.data.store import Store
from steerflow.data.stream import StreamFeed
from steerflow.machine import free_memory
from steerflow.spec import Normaliser, Spec

# A resident data set may take this share of the free memory.
_RESIDENT_SHARE = 1 / 3


@dataclass
class ResidentFeed:
    """All columns on the device; a batch is drawn inside the compiled call, without any Python per step."""

    seeds: np.ndarray
    batch: int
    chunk: int
    horizon: int
    count: int
    data: Any
    # Seconds that training waited for data.
    waited: float = 0.0

    @staticmethod
    def of(
        store: Store,
        spec: Spec,
        normaliser: Normaliser,
        tasks: Sequence[str],
        *,
        seeds: np.ndarray,
        batch: int,
        horizon: int,
    ) -> ResidentFeed:
        index = ChunkIndex.of(store.episode_ends)
        pairs = [store.rewards(task) for task in tasks]
        columns = Columns(
            observations=normaliser(np.asarray(store.observations)),
            actions=spec.scale_actions(np.asarray(store.actions)),
            rewards=tuple(rewards for rewards, _ in pairs),
            masks=tuple(masks for _, masks in pairs),
        )
        data = jax.device_put((columns, index.first_chunk, index.episode_ends))
        return ResidentFeed(seeds, batch, spec.chunk, horizon, index.count, data)

    def payload(self, first: int, n: int, every: int | None = None) -> np.ndarray:
        """The seeds, for each step."""
        return np.broadcast_to(self.seeds, (n, len(self.seeds)))

    def windows(self, data: Any, step: Any, part: Any) -> Windows:
        columns, first_chunk, episode_ends = data
        numbers = draw_numbers(part, step, batch=self.batch, count=self.count)
        rows, last = chunk_rows(jnp, numbers, first_chunk, episode_ends)
        return pick_windows(jnp, columns, rows, last, chunk=self.chunk, horizon=self.horizon)

    def ahead(self, n: int) -> int:
        """Calls of ``n`` steps that are read ahead."""
        return 0

    def close(self) -> None:
        pass


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
        kind = "memory" if needed <= _RESIDENT_SHARE * free_device_memory(jax.local_devices()[0]) else "stream"
    make = ResidentFeed.of if kind == "memory" else StreamFeed
    # As jax.random.key takes large numbers where 64-bit types are off.
    numbers = np.asarray(seeds, np.int64).astype(np.int32)
    return make(store, spec, normaliser, tasks, seeds=numbers, batch=batch, horizon=horizon)


def resident_bytes(store: Store, tasks: Sequence[str]) -> int:
    """Bytes that the columns take on the device, whatever the number of seeds: float32 but for the episode index."""
    dims = store.observations.shape[1] + store.actions.shape[1] + 2 * len(tasks)
    return 4 * (dims * store.rows + 2 * store.episodes)


def waiting(feed: Feed, seconds: float) -> str:
    """What to say about training of ``seconds`` that waited for data for a good part of them; else nothing."""
    if feed.waited < max(1.0, 0.02 * seconds):
        return ""
    return (
        f"Training waited {feed.waited:.0f} of {seconds:.0f} s for data from the disk. It reads more than the memory caches: "
        "more free memory or a faster disk would help, or --feed memory where the data fit."
    )


def free_device_memory(device: Any) -> float:
    """Bytes that can still be taken on ``device``; for a CPU, of the machine's memory."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_memory() or float("inf")
