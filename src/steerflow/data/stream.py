"""Batches streamed from the memory-mapped store: read by threads, some calls ahead of training.

A chunk is a handful of rows in each column. Where they are in the page cache, reading them is a copy; where not, a thread
waits for the disk, so many threads read at once, each only the pages that it needs. Columns that fit into the free memory
are brought into the page cache in order, which is far faster than at random: the small ones first, as every chunk needs
all columns and then misses in fewer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from steerflow.data.columns import bring_in, require_whole
from steerflow.data.index import ChunkIndex, Columns, Windows, chunk_rows, draw_numbers, pick_windows
from steerflow.data.store import Store
from steerflow.machine import free_memory
from steerflow.spec import Normaliser, Spec

# Calls that are read ahead of the one that trains, and the memory that they may take; one always is.
_AHEAD_CALLS, _AHEAD_BYTES = 4, 512 << 20
# Threads that read, and the most chunks that one reads at a time.
_READERS, _BLOCK = 32, 2048
# Share of the free memory that columns in the page cache may fill.
_CACHED_SHARE = 0.75


class StreamFeed:
    """Reads what ``payload`` will be asked for next while training computes; memory holds up to 5 calls' batches.

    The store is opened once more, for reading at random places. ``waited`` counts the seconds that ``payload`` kept its
    caller waiting. ``close`` ends the threads. Raises ArtefactError where a column is gone or was cut short. A disk that
    fails under a mapped file ends the process (SIGBUS); the run continues from its last checkpoint.
    """

    def __init__(
        self,
        store: Store,
        spec: Spec,
        normaliser: Normaliser,
        tasks: Sequence[str],
        *,
        seeds: np.ndarray,
        batch: int,
        horizon: int,
    ) -> None:
        store = Store.open(store.path, scattered=True)
        pairs = [store.rewards(task) for task in tasks]
        self.data, self.waited = None, 0.0
        self._mapped = [store.observations, store.actions, *(column for pair in pairs for column in pair)]
        # Plain arrays: the subclass that np.load returns is slow to index.
        plain = [np.asarray(column) for column in self._mapped]
        self._columns = Columns(plain[0], plain[1], tuple(plain[2::2]), tuple(plain[3::2]))
        self._index = ChunkIndex.of(store.episode_ends)
        self._spec, self._normaliser, self._horizon = spec, normaliser, horizon
        self._shape = (len(seeds), batch)
        # Numbers are drawn on the host: on an accelerator they would queue behind the call that trains.
        self._seeds = jax.device_put(seeds, _host())
        draw = partial(draw_numbers, batch=batch, count=self._index.count)
        self._draw = jax.jit(jax.vmap(jax.vmap(draw, in_axes=(0, None)), in_axes=(None, 0)))
        self._ahead: dict[tuple[int, int], Future] = {}
        self._closed = threading.Event()
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="steerflow-feed")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="steerflow-read")
        self._warmer = threading.Thread(target=self._bring_in, name="steerflow-bring-in", daemon=True)
        self._warmer.start()

    def payload(self, first: int, n: int, every: int | None = None) -> Windows:
        """Leaves (n, seed, ...). The next call is expected ``every`` steps later (n by default), and is read ahead."""
        begin = time.perf_counter()
        calls = [(first + k * (every or n), n) for k in range(self.ahead(n) + 1)]
        for call in self._ahead.keys() - set(calls):
            self._ahead.pop(call).cancel()
        for call in calls:
            if call not in self._ahead:
                self._ahead[call] = self._caller.submit(self._read, *call)
        windows = self._ahead.pop(calls[0]).result()
        self.waited += time.perf_counter() - begin
        return windows

    def windows(self, data: Any, step: Any, part: Windows) -> Windows:
        return part

    def close(self) -> None:
        self._closed.set()
        for pool in (self._caller, self._readers):
            pool.shutdown(cancel_futures=True)
        self._warmer.join()

    def ahead(self, n: int) -> int:
        """Calls of ``n`` steps that are read ahead."""
        return min(_AHEAD_CALLS, max(1, _AHEAD_BYTES // self.call_bytes(n)))

    def call_bytes(self, n: int) -> int:
        """Bytes of the payload of ``n`` steps."""
        return sum(x.nbytes for x in self._empty(n))

    def _empty(self, n: int) -> Windows:
        columns, count = self._columns, n * int(np.prod(self._shape))
        observation, action = columns.observations.shape[1], columns.actions.shape[1]
        per_task = (len(columns.rewards), count, self._horizon)
        return Windows(
            observations=np.empty((count, observation), np.float32),
            next_observations=np.empty((count, observation), np.float32),
            actions=np.empty((count, self._spec.chunk, action), np.float32),
            rewards=np.empty(per_task, np.float32),
            masks=np.empty(per_task, np.float32),
            steps=np.empty(count, np.int32),
        )

    def _read(self, first: int, n: int) -> Windows:
        for column in self._mapped:
            require_whole(column)
        steps = np.arange(first, first + n, dtype=np.int32)
        numbers = np.asarray(self._draw(self._seeds, steps)).ravel()
        out = self._empty(n)
        size = min(_BLOCK, -(-len(numbers) // _READERS))
        blocks = [slice(begin, begin + size) for begin in range(0, len(numbers), size)]
        list(self._readers.map(partial(self._fill, numbers, out), blocks))
        lead = (n, *self._shape)

        def of_tasks(x: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(np.moveaxis(x.reshape(len(x), *lead, self._horizon), 0, 2))

        return Windows(
            *(x.reshape(*lead, *x.shape[1:]) for x in out[:3]),
            rewards=of_tasks(out.rewards),
            masks=of_tasks(out.masks),
            steps=out.steps.reshape(lead),
        )

    def _fill(self, numbers: np.ndarray, out: Windows, block: slice) -> None:
        if self._closed.is_set():
            return
        rows, last = chunk_rows(np, numbers[block], self._index.first_chunk, self._index.episode_ends)
        picked = pick_windows(np, self._columns, rows, last, chunk=self._spec.chunk, horizon=self._horizon)
        out.observations[block] = self._normaliser(picked.observations)
        out.next_observations[block] = self._normaliser(picked.next_observations)
        out.actions[block] = self._spec.scale_actions(picked.actions)
        out.rewards[:, block], out.masks[:, block], out.steps[block] = picked.rewards, picked.masks, picked.steps

    def _bring_in(self) -> None:
        room = _CACHED_SHARE * (free_memory() or 0)
        for column in sorted(self._mapped, key=lambda column: column.nbytes):
            room -= column.nbytes
            if room >= 0:
                bring_in(column, lambda: not self._closed.is_set())


def _host() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        # JAX_PLATFORMS may leave it out.
        return jax.local_devices()[0]
