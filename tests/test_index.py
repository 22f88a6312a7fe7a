"""Chunks against a slow version in plain Python, for any store, chunk, horizon, rewards and masks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from steerflow.data.index import ChunkIndex, Columns, chunk_rows, pick_windows, to_chunks


def slow_chunk(episodes, episode, offset, chunk, horizon, discount, task):
    """One chunk by walking the episode step by step, as an agent would."""
    observations, actions, rewards, masks = episodes[episode]
    last = len(observations) - 1
    total, factor, over, steps = 0.0, 1.0, False, 0
    for j in range(horizon):
        if offset + j >= last:
            break
        if not over:
            total += factor * rewards[task, offset + j]
            over = masks[task, offset + j] == 0
        factor *= discount
        steps += 1
    bootstrap = 0.0 if over else factor
    mask = [1.0 if offset + j < last else 0.0 for j in range(chunk)]
    taken = [actions[offset + j] for j in range(chunk) if offset + j < last]
    return observations[offset], observations[offset + steps], taken, mask, total, bootstrap


@st.composite
def stores(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=5))
    episodes = []
    for length in lengths:
        observations, actions = rng.normal(size=(length, 2)), rng.normal(size=(length, 1))
        rewards, masks = rng.normal(size=(2, length)), rng.integers(0, 3, (2, length)).clip(0, 1)
        episodes.append((observations, actions, rewards, masks))
    chunk = draw(st.integers(1, 4))
    return episodes, chunk, chunk + draw(st.integers(0, 4)), draw(st.floats(0.5, 1.0))


@settings(max_examples=12)
@given(stores())
def test_every_chunk_of_a_store_equals_the_slow_version(case):
    episodes, chunk, horizon, discount = case
    columns = Columns(
        observations=np.concatenate([e[0] for e in episodes]).astype(np.float32),
        actions=np.concatenate([e[1] for e in episodes]).astype(np.float32),
        rewards=np.concatenate([e[2] for e in episodes], axis=1).astype(np.float32),
        masks=np.concatenate([e[3] for e in episodes], axis=1).astype(np.float32),
    )
    index = ChunkIndex.of(np.cumsum([len(e[0]) for e in episodes]))
    places = [(n, offset) for n, e in enumerate(episodes) for offset in range(len(e[0]) - 1)]
    assert index.count == len(places)
    numbers = np.arange(index.count, dtype=np.int32)
    for xp in (np, jnp):
        rows, last = chunk_rows(xp, xp.asarray(numbers), xp.asarray(index.first_chunk), xp.asarray(index.episode_ends))
        windows = pick_windows(xp, Columns(*map(xp.asarray, columns)), rows, last, chunk=chunk, horizon=horizon)
        batch = to_chunks(windows, discount)
        for number, (episode, offset) in enumerate(places):
            for task in range(2):
                now, after, taken, mask, total, bootstrap = slow_chunk(
                    episodes, episode, offset, chunk, horizon, discount, task
                )
                np.testing.assert_allclose(batch.observations[number], now, rtol=1e-6)
                np.testing.assert_allclose(batch.next_observations[number], after, rtol=1e-6)
                np.testing.assert_array_equal(batch.step_mask[number], mask)
                np.testing.assert_allclose(batch.actions[number][: len(taken)], taken, rtol=1e-6)
                assert batch.whole[number] == mask[-1]
                np.testing.assert_allclose(batch.returns[task, number], total, rtol=2e-5, atol=2e-5)
                np.testing.assert_allclose(batch.bootstrap[task, number], bootstrap, rtol=1e-5)


def test_the_end_of_a_recording_is_not_terminal_and_a_success_is_absorbing():
    columns = Columns(
        observations=np.arange(6, dtype=np.float32)[:, None],
        actions=np.zeros((6, 1), np.float32),
        rewards=np.full((1, 6), -1, np.float32),
        masks=np.array([[1, 1, 0, 1, 1, 1]], np.float32),
    )
    index = ChunkIndex.of(np.array([6]))
    rows, last = chunk_rows(np, np.arange(5, dtype=np.int32), index.first_chunk, index.episode_ends)
    batch = to_chunks(pick_windows(np, columns, rows, last, chunk=1, horizon=3), 0.5)
    # From row 1 the task ends at row 2: two rewards, no bootstrap. From row 4 only one step was recorded: V is one step on.
    np.testing.assert_allclose(batch.returns[0], [-1.75, -1.5, -1.0, -1.5, -1.0])
    np.testing.assert_allclose(batch.bootstrap[0], [0, 0, 0, 0.25, 0.5])
