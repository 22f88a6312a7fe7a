"""Uniform random chunks of 100M transitions: start-up, rates with and without the page cache, memory, and training on them.

The store is the demo's data set again and again, with noise: 22.4 GB (observations, actions, qpos, rewards, masks), of which
training reads 14 GB. A store found in the scratch folder is used and left there; one made here is removed at the end,
unless BENCH_KEEP=1. The usual way trains on one npz slice of a million rows at a time and loads another after every 1000
updates, while training waits.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import jax
import numpy as np

from bench import usual
from bench.measure import Options, Table
from steerflow.data import stream
from steerflow.data.feed import Feed, make_feed
from steerflow.data.store import DataSet, Store, StoreWriter
from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig
from steerflow.learn.state import Learner
from steerflow.learn.train import compiled_updates, spec_of
from steerflow.spec import Normaliser

# The size, what is taken where it does not fit, and that of --quick.
_ROWS, _FEWER, _QUICK = 100_000_000, 30_000_000, 1_000_000
# Rows of a slice, and updates until the next is loaded, as in released code.
_SLICE, _SWAP = 1_000_000, 1000
_TASK, _BATCH, _CHUNK, _CALL = "task", 256, 5, 250
# What a GPU-class consumer takes: 500 updates/s at batch 1024, an assumption to compare with.
_GPU_CHUNKS = 500 * 1024


def measure(options: Options) -> Table:
    source = DataSet.open(options.data).train
    folder = options.scratch / "data"
    made_here = not (folder / "meta.json").exists()
    try:
        begin = time.perf_counter()
        store = _tiled(source, options.task, folder, options.quick) if made_here else Store.open(folder)
        print(f"  {store.rows:,} rows in {time.perf_counter() - begin:.0f} s", flush=True)
        table = Table("data", f"Random chunks of {store.rows / 1e6:.0f}M rows", {"rows": store.rows, "chunk": _CHUNK})
        _rates(table, store, options)
        _training(table, source, store, options)
        return table
    finally:
        if made_here and os.environ.get("BENCH_KEEP") != "1":
            shutil.rmtree(folder, ignore_errors=True)


def _tiled(source: Store, task: str, folder: Path, quick: bool) -> Store:
    """The source's episodes again and again, with noise of 0.01 on the observations."""
    columns = {"observations": source.observations, "actions": source.actions, "qpos": source.info["qpos"]}
    row_bytes = sum(column[0].nbytes for column in columns.values()) + 8
    folder.parent.mkdir(parents=True, exist_ok=True)
    free, rows = shutil.disk_usage(folder.parent).free, _QUICK if quick else _ROWS
    if rows * row_bytes > 0.9 * free:
        print(f"  {free / 1e9:.0f} GB free do not hold {rows:,} rows: {_FEWER:,} instead", flush=True)
        rows = _FEWER
    bounds = list(zip(source.episode_starts.tolist(), source.episode_ends.tolist(), strict=True))
    random, written, copies = np.random.default_rng(0), 0, []
    low, high = source.action_bounds
    with StoreWriter(folder, action_low=low, action_high=high, source={"kind": "tiled"}) as writer:
        while written < rows:
            begin, end = bounds[len(copies) % len(bounds)]
            episode = {name: column[begin:end] for name, column in columns.items()}
            noise = random.standard_normal((end - begin, source.observations.shape[1]), np.float32)
            writer.append({**episode, "observations": episode["observations"] + np.float32(0.01) * noise})
            written += end - begin
            copies.append(slice(begin, end))
        store = writer.commit()
    store.add_task(_TASK, *(np.concatenate([column[one] for one in copies]) for column in source.rewards(task)))
    return store


def _rates(table: Table, store: Store, options: Options) -> None:
    for name, share, note in (
        ("cold, at random", 0.0, "pages of 4 KiB at random, as where the data exceed the memory"),
        ("cold, small columns cached", 0.3, "all but the observations brought in first, as where only these exceed it"),
        ("cold, as it is", stream._CACHED_SHARE, "from the first call on, while the columns are brought in"),
    ):
        _drop(store)
        with _cached_share(share), closing(_feed("stream", store, _TASK)) as feed:
            if 0 < share < 0.5:
                feed._warmer.join()
            table.add("chunks", f"steerflow, {name}", "steerflow", "chunks/s", _chunk_rates(feed, options, 6.0), note)
    _drop(store)
    begin = time.perf_counter()
    feed = _feed("stream", Store.open(store.path), _TASK)
    feed.payload(0, 1)
    table.add("start", "store, index and first batch, cold", "steerflow", "s", [time.perf_counter() - begin])
    with closing(feed):
        feed._warmer.join()
        # Asking for pages does not wait for them.
        for path in _read_by_training(store):
            _read_through(path)
        table.add("start", "all columns in the page cache", "steerflow", "s", [time.perf_counter() - begin])
        warm = table.add("chunks", "steerflow, warm", "steerflow", "chunks/s", _chunk_rates(feed, options, 4.0))
        table.add("memory", "beyond the page cache, reading", "steerflow", "GB", [_anonymous() / 1e9])
    pages = _page_rate(store)
    table.add(
        "chunks", "disk: pages of 4 KiB, 32 threads", "limit", "chunks/s", [pages], "a chunk needs 1.2 to 4.2 pages"
    )
    table.add("chunks", "memory: 5 random rows of 128 bytes", "limit", "chunks/s", [_memory_rate() for _ in range(5)])
    table.ratio("warm chunks/s against 500 updates/s at batch 1024", warm / _GPU_CHUNKS, ">= 1")


def _training(table: Table, source: Store, store: Store, options: Options) -> None:
    """Updates/s at 4x512 on data in memory, streamed, and the usual way."""
    hidden, updates = (512,) * 4, 25 if options.quick else 100
    config = TrainConfig(
        data=options.data, run=Path(), tasks=(_TASK,), batch=_BATCH,
        policy=FlowMatchingConfig(hidden=hidden), critic=IQLConfig(hidden=hidden),
    )  # fmt: skip
    learner = Learner(config, spec_of(store, _CHUNK))
    feeds = {"data in memory": _feed("memory", source, options.task), "streamed": _feed("stream", store, _TASK)}
    rates = {name: [] for name in feeds}
    calls = {name: compiled_updates(learner, feed) for name, feed in feeds.items()}
    states = {name: jax.jit(learner.init)() for name in feeds}
    waited = 0.0
    # In turn, so that a change of the machine's speed meets all alike; the first round warms up.
    for n in range(min(options.repeats, 5) + 1):
        for name, feed in feeds.items():
            steps, before = np.arange(n * updates, (n + 1) * updates, dtype=np.int32), feed.waited
            begin = time.perf_counter()
            states[name], _ = calls[name](states[name], feed.data, steps, feed.payload(n * updates, updates))
            jax.block_until_ready(states[name])
            if n:
                rates[name].append(updates / (time.perf_counter() - begin))
                waited += feed.waited - before
    for name, values in rates.items():
        table.add("training", f"steerflow, {name}", "steerflow", "updates/s at 4x512", values)
    table.add("memory", "beyond the page cache, training", "steerflow", "GB", [_anonymous() / 1e9])
    for feed in feeds.values():
        feed.close()

    files = _slices(store, options.scratch / "slices")
    try:
        slices = usual.Slices(files, _BATCH, _CHUNK)
        loads = [slices.load() for _ in range(2 if options.quick else 4)]
        begin = time.perf_counter()
        for _ in range(100):
            slices.sampler()
        rate = 100 * _BATCH / (time.perf_counter() - begin)
        agent = usual.agent(0, learner.spec.observation_dim, learner.spec.flat_dim, hidden)
        agent, theirs = usual.train(agent, slices.sampler, 10), []
        for _ in range(3):
            begin = time.perf_counter()
            agent = usual.train(agent, slices.sampler, updates)
            seconds = (time.perf_counter() - begin) / updates * _SWAP + statistics.median(loads)
            theirs.append(_SWAP / seconds)
    finally:
        shutil.rmtree(files[0].parent, ignore_errors=True)
    table.add("training", "the usual way, with its loading", "usual", "updates/s at 4x512", theirs)
    table.add("chunks", "the usual way, from one slice", "usual", "chunks/s", [rate])
    table.add("waiting", "the usual way, for each 1000 updates", "usual", "s", loads, "a compressed slice of 1M rows")
    streamed = statistics.median(rates["streamed"])
    per_swap = waited / (len(rates["streamed"]) * updates) * _SWAP
    table.add("waiting", "steerflow, for each 1000 updates", "steerflow", "s", [per_swap])
    warm = next(row.median for row in table.groups["chunks"] if row.name.endswith("warm"))
    table.ratio("warm chunks/s against training at 4x512", warm / (streamed * _BATCH), ">= 20")
    table.ratio("updates/s streamed against in memory", streamed / statistics.median(rates["data in memory"]))
    table.ratio("memory beyond the page cache, GB", max(row.median for row in table.groups["memory"]), "<= 2")


def _feed(kind: str, store: Store, task: str) -> Feed:
    return make_feed(
        kind, store, spec=spec_of(store, _CHUNK), normaliser=Normaliser.identity(store.observations.shape[1]),
        tasks=(task,), seeds=(0,), batch=_BATCH, horizon=_CHUNK,
    )  # fmt: skip


def _chunk_rates(feed: Feed, options: Options, limit: float) -> list[float]:
    """Chunks/s of each of several calls, after the first; no more than ``limit`` seconds or 50 calls."""
    feed.payload(0, 1)
    feed.payload(0, _CALL)
    rates, begin = [], time.perf_counter()
    while len(rates) < 50 and (len(rates) < 2 or time.perf_counter() - begin < limit):
        since = time.perf_counter()
        feed.payload((len(rates) + 1) * _CALL, _CALL)
        rates.append(_CALL * _BATCH / (time.perf_counter() - since))
    return rates


@contextmanager
def _cached_share(share: float) -> Iterator[None]:
    kept, stream._CACHED_SHARE = stream._CACHED_SHARE, share
    try:
        yield
    finally:
        stream._CACHED_SHARE = kept


def _read_by_training(store: Store) -> list[Path]:
    names = ("observations", "actions", f"tasks/{_TASK}/rewards", f"tasks/{_TASK}/masks")
    return [store.path / f"{name}.npy" for name in names]


def _drop(store: Store) -> None:
    """Take the store's pages out of the page cache."""
    for path in store.path.rglob("*.npy"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_through(path: Path) -> None:
    buffer = bytearray(16 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _anonymous() -> float:
    """Bytes of this process that are no pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return float("nan")


def _page_rate(store: Store, seconds: float = 3.0) -> float:
    """The disk's limit: random reads of 4 KiB per second, by 32 threads."""
    _drop(store)
    path = store.path / "observations.npy"
    pages, end = path.stat().st_size // 4096, time.perf_counter() + seconds

    def read(seed: int) -> int:
        random, count = np.random.default_rng(seed), 0
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            while time.perf_counter() < end:
                os.pread(file.fileno(), 4096, 4096 * int(random.integers(pages)))
                count += 1
        return count

    with ThreadPoolExecutor(32) as threads:
        return sum(threads.map(read, range(32))) / seconds


def _memory_rate() -> float:
    """The memory's limit: five random places for a chunk, 128 bytes each, copied by two threads."""
    rows, count = np.ones((1 << 23, 32), np.float32), 1 << 20
    places = np.random.default_rng(0).integers(0, len(rows), (2, count))
    out = np.empty((2, count, 32), np.float32)
    out.fill(0)
    with ThreadPoolExecutor(2) as threads:
        begin = time.perf_counter()
        list(threads.map(lambda k: np.take(rows, places[k], axis=0, out=out[k], mode="clip"), range(2)))
        return 2 * count / 5 / (time.perf_counter() - begin)


def _slices(store: Store, folder: Path) -> list[Path]:
    """Two npz slices as OGBench writes them, with rewards."""
    folder.mkdir(parents=True, exist_ok=True)
    rewards, masks = store.rewards(_TASK)
    ends, files, begin = store.episode_ends, [], 0
    for number in range(2):
        end = int(ends[min(np.searchsorted(ends, begin + _SLICE), len(ends) - 1)])
        terminals = np.zeros(end - begin, np.float32)
        terminals[ends[(ends > begin) & (ends <= end)] - 1 - begin] = 1
        rows, file = slice(begin, end), folder / f"slice-{number:03d}.npz"
        np.savez_compressed(
            file, observations=store.observations[rows], actions=store.actions[rows], qpos=store.info["qpos"][rows],
            terminals=terminals, rewards=rewards[rows], masks=masks[rows],
        )  # fmt: skip
        files.append(file)
        begin = end if end < store.rows else 0
    return files
