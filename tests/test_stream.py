"""Streamed batches: read ahead of training, in bounded memory, with errors that reach the caller and threads that end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc

import jax
import numpy as np
import pytest

from steerflow.data import feed as feed_module
from steerflow.data import stream
from steerflow.data.feed import ResidentFeed, make_feed, resident_bytes, waiting
from steerflow.data.store import Store, StoreWriter
from steerflow.data.stream import StreamFeed
from steerflow.errors import ArtefactError
from steerflow.learn.train import spec_of
from steerflow.spec import Normaliser

TASKS = ("reach", "reach-far")


def feed_of(store: Store, kind: str = "stream", *, tasks=TASKS, seeds=(0,), batch=5):
    spec, normaliser = spec_of(store, 3), Normaliser.identity(store.observations.shape[1])
    return make_feed(kind, store, spec=spec, normaliser=normaliser, tasks=tasks, seeds=seeds, batch=batch, horizon=4)


@pytest.fixture
def streamed(small_data):
    feed = feed_of(small_data.train)
    yield feed
    feed.close()


def test_batches_that_several_readers_fill_are_those_of_the_resident_feed(small_data, monkeypatch):
    monkeypatch.setattr(stream, "_BLOCK", 3)
    resident, streamed = (feed_of(small_data.train, kind, seeds=(3, 4)) for kind in ("memory", "stream"))
    payload, drawn = streamed.payload(6, 4), resident.payload(6, 4)
    for n in range(4):
        for seed in range(2):
            part = jax.tree.map(lambda x, n=n, seed=seed: x[n, seed], payload)
            for a, b in zip(resident.windows(resident.data, 6 + n, drawn[n, seed]), part, strict=True):
                np.testing.assert_array_equal(a, b)
    streamed.close()


def test_what_comes_next_is_read_ahead_once(streamed, monkeypatch):
    read, reads = streamed._read, []

    def spy(first, n):
        reads.append((first, n))
        return read(first, n)

    monkeypatch.setattr(streamed, "_read", spy)
    alone = [streamed._read(first, 2).observations for first in (10, 20, 30)]
    reads.clear()
    for first, observations in zip((10, 20, 30), alone, strict=True):
        np.testing.assert_array_equal(streamed.payload(first, 2, every=10).observations, observations)
    streamed.close()
    assert reads == [(10 + 10 * k, 2) for k in range(len(reads))]
    assert 4 <= len(reads) <= 3 + stream._AHEAD_CALLS


def test_what_is_read_ahead_is_bounded_by_its_bytes(streamed, monkeypatch):
    payload = streamed.payload(0, 4)
    assert streamed.call_bytes(4) == sum(x.nbytes for x in payload)
    assert len(streamed._ahead) == stream._AHEAD_CALLS
    monkeypatch.setattr(stream, "_AHEAD_BYTES", 2 * streamed.call_bytes(4) + 1)
    streamed.payload(100, 4)
    assert sorted(streamed._ahead) == [(104, 4), (108, 4)]
    monkeypatch.setattr(stream, "_AHEAD_BYTES", 0)
    streamed.payload(200, 4)
    assert sorted(streamed._ahead) == [(204, 4)]


def test_columns_stay_on_the_disk_whatever_the_number_of_tasks(tmp_path):
    rows = 1_000_000
    with StoreWriter(tmp_path / "train", action_low=[-1.0], action_high=[1.0], source={}) as writer:
        writer.append({"observations": np.ones((rows, 4), np.float32), "actions": np.zeros((rows, 1), np.float32)})
        store = writer.commit()
    for task in TASKS:
        store.add_task(task, np.zeros(rows), np.ones(rows))
    feed_of(store).close()
    tracemalloc.start()
    feed = feed_of(store)
    feed.payload(0, 4)
    feed.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A single column of rewards has 4 MB.
    assert peak < 3_000_000


def test_a_column_that_is_cut_short_is_an_error_and_no_crash(small_data, tmp_path):
    shutil.copytree(small_data.train.path, tmp_path / "train")
    store = Store.open(tmp_path / "train")
    feed = feed_of(store)
    path = tmp_path / "train/tasks/reach/masks.npy"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(ArtefactError, match="was cut short while it was read"):
        feed.payload(0, 2)
    feed.close()
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(ArtefactError, match="There is no data store"):
        feed_of(store)


def test_waiting_is_counted(streamed, monkeypatch):
    read = streamed._read
    monkeypatch.setattr(streamed, "_read", lambda *call: (time.sleep(0.05), read(*call))[1])
    streamed.payload(0, 2)
    assert streamed.waited >= 0.05


def test_close_ends_the_threads(small_data):
    feed = feed_of(small_data.train)
    feed.payload(0, 2)
    assert any(thread.name.startswith("steerflow-") for thread in threading.enumerate())
    feed.close()
    assert not any(thread.name.startswith("steerflow-") for thread in threading.enumerate())


FOREVER = textwrap.dedent("""
    import sys
    from steerflow.data.feed import make_feed
    from steerflow.data.store import Store
    from steerflow.learn.train import spec_of
    from steerflow.spec import Normaliser
    store = Store.open(sys.argv[1])
    feed = make_feed("stream", store, spec=spec_of(store, 3), normaliser=Normaliser.identity(3), tasks=(), seeds=(0,),
        batch=4096, horizon=3)
    first = 0
    while True:
        feed.payload(first, 50)
        first += 50
        print("read", flush=True)
""")


def test_an_interrupt_ends_a_process_that_streams(small_data):
    command = [sys.executable, "-c", FOREVER, str(small_data.train.path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "read\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_normaliser_of_many_rows_is_fitted_to_runs_all_over_them():
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 4, 60_000)[:, None]
    rows = (rng.normal(size=(60_000, 2)) * [1, 3] + [5, -2] + drift).astype(np.float32)
    fitted = Normaliser.fit(rows, max_rows=20_000)
    np.testing.assert_allclose(fitted.mean, rows.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(fitted.std, rows.std(axis=0), rtol=0.05)


def test_training_that_waited_says_so(streamed):
    streamed.waited = 3.0
    assert "waited 3 of 10 s" in waiting(streamed, 10.0)
    assert waiting(streamed, 1000.0) == ""


def test_auto_streams_what_does_not_fit(small_data, monkeypatch):
    needed = 6 * resident_bytes(small_data.train, TASKS)
    for free, kind in ((needed + 1, ResidentFeed), (needed - 1, StreamFeed)):
        monkeypatch.setattr(feed_module, "free_device_memory", lambda _, free=free: free)
        feed = feed_of(small_data.train, "auto")
        assert isinstance(feed, kind)
        feed.close()
