"""Losses against float64 numpy, masks, learners together and apart, and the training loop's promises."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import write_data
from steerflow.critic import Critic
from steerflow.data.feed import make_feed, resident_bytes
from steerflow.data.index import Chunks, Windows, to_chunks
from steerflow.errors import ArtefactError, BusyError, SteerflowError, TrainingError
from steerflow.learn import flow_matching, iql
from steerflow.learn import train as loop
from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig
from steerflow.learn.networks import MLP, time_features
from steerflow.learn.path import flow_times
from steerflow.learn.products import product, products_in, standardise, to_rows
from steerflow.learn.train import spec_of, train
from steerflow.policy import Policy
from steerflow.run import read_lines, stoppable
from steerflow.spec import Normaliser, Spec

SPEC = Spec(3, 2, 2, (-1.0, -1.0), (1.0, 1.0))
SMALL = (16, 16)


def random_chunks(batch=8, seed=0, tasks=()):
    rng = np.random.default_rng(seed)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = jnp.asarray(np.arange(2)[None] < rng.integers(1, 3, (batch, 1)), jnp.float32)
    returns, bootstrap = f(*tasks, batch), jnp.asarray(rng.uniform(0, 1, (*tasks, batch)), jnp.float32)
    return Chunks(f(batch, 3), f(batch, 3), f(batch, 2, 2), mask, mask[:, -1], returns, bootstrap)


def numpy_mlp(mlp, x, norm_first=True):
    """The network in float64 numpy."""
    gelu = lambda y: 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))  # noqa: E731
    x = np.asarray(x, np.float64)
    for layer, norm in zip(mlp.layers, mlp.norms, strict=True):
        x = x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
        if norm is None:
            x = gelu(x)
            continue
        y = x if norm_first else gelu(x)
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        y = y * np.asarray(norm.scale, np.float64) + np.asarray(norm.shift, np.float64)
        x = gelu(y) if norm_first else y
    return x @ np.asarray(mlp.output.weight, np.float64) + np.asarray(mlp.output.bias, np.float64)


@pytest.mark.parametrize("order", ["norm_first", "norm_last"])
@pytest.mark.parametrize("plain_last", [False, True])
def test_mlp_against_numpy(order, plain_last):
    mlp = MLP(jax.random.key(0), 5, (8, 8), 3, order=order, plain_last=plain_last)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(mlp(jnp.asarray(x)), numpy_mlp(mlp, x, order == "norm_first"), atol=1e-5)
    assert (mlp.norms[-1] is None) == plain_last


@pytest.mark.parametrize("outputs", [1, 4])
def test_gradients_of_a_layer_are_those_of_the_plain_formulas(outputs):
    rng = np.random.default_rng(outputs)
    x, weight, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((6, 5), (5, outputs), (outputs,)))

    def plain(x, weight, bias):
        y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return jnp.sum(jnp.sin(y @ weight + bias) * jnp.arange(6.0)[:, None])

    def ours(x, weight, bias):
        return jnp.sum(jnp.sin(product(standardise(x), weight) + to_rows(bias, 6)) * jnp.arange(6.0)[:, None])

    gradients = [jax.grad(f, argnums=(0, 1, 2)) for f in (plain, ours)]
    for expected, got in zip(*(g(x, weight, bias) for g in gradients), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    # Over an ensemble, and inside a compiled loop.
    many = jax.jit(jax.vmap(gradients[1], in_axes=(None, 0, None)))(x, jnp.stack([weight, 2 * weight]), bias)
    np.testing.assert_allclose(many[1][1], gradients[0](x, 2 * weight, bias)[1], rtol=1e-4, atol=1e-5)


def test_sums_over_the_rows_of_an_ensemble_are_one_product_for_each_member():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 6, 5)), jnp.float32)
    of_one = lambda g: jax.vjp(lambda bias: to_rows(bias, 6), jnp.zeros(5))[1](g)[0]  # noqa: E731
    of_all = jax.vmap(jax.vmap(of_one))
    np.testing.assert_allclose(of_all(g), np.asarray(g, np.float64).sum(axis=2), rtol=1e-5, atol=1e-5)
    # With one factor of ones for all, which XLA would make of it, it first transposes g.
    assert "dimension_numbers=(([3], [2]), ([0, 1], [0, 1]))" in str(jax.make_jaxpr(of_all)(g))


def test_products_in_bfloat16_round_their_factors_only():
    rng = np.random.default_rng(0)
    x, weight, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 6, 50), (2, 50, 4), (2, 6, 4)))
    rounded = lambda y: np.asarray(y.astype(jnp.bfloat16).astype(jnp.float32), np.float64)  # noqa: E731

    def both(x, weight, g):
        y, vjp = jax.vjp(product, x, weight)
        return y, vjp(g)

    with products_in("bfloat16"):
        y, (of_x, of_weight) = jax.jit(jax.vmap(both))(x, weight, g)
        jaxpr = str(jax.make_jaxpr(jax.vmap(both))(x, weight, g))
    assert y.dtype == of_x.dtype == of_weight.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded(x) @ rounded(weight), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_x, rounded(g) @ np.swapaxes(rounded(weight), 1, 2), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_weight, np.swapaxes(rounded(x), 1, 2) @ rounded(g), rtol=1e-5, atol=1e-5)
    assert np.abs(y - np.asarray(x, np.float64) @ np.asarray(weight, np.float64)).max() > 1e-3
    # XLA's kernels for bfloat16 take neither factor transposed.
    assert jaxpr.count("layout_constraint") == 2


def test_time_features_against_numpy():
    t = np.linspace(0, 1, 7)
    w = 10_000.0 ** (1 - np.arange(8) / 8)
    expected = np.concatenate([np.cos(t[:, None] * w), np.sin(t[:, None] * w)], axis=1)
    np.testing.assert_allclose(time_features(jnp.asarray(t, jnp.float32), 10_000.0), expected, atol=2e-3)


def test_flow_times_cover_the_interval_or_the_grid():
    uniform = np.asarray(flow_times(jax.random.key(0), 4000, FlowMatchingConfig()))
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.02
    grid = np.asarray(flow_times(jax.random.key(0), 4000, FlowMatchingConfig(flow_time="grid")))
    np.testing.assert_allclose(np.unique(grid), np.arange(11) / 10, atol=1e-6)


def test_flow_matching_loss_against_numpy():
    config = FlowMatchingConfig(hidden=SMALL)
    state = flow_matching.init(jax.random.key(0), SPEC, config)
    chunks, key = random_chunks(), jax.random.key(5)
    noise_key, time_key = jax.random.split(key)
    noise = np.asarray(jax.random.normal(noise_key, (8, 4)), np.float64)
    t = np.asarray(jax.random.uniform(time_key, (8,)), np.float64)
    action = np.asarray(chunks.actions, np.float64).reshape(8, 4)
    between = (1 - t[:, None]) * noise + t[:, None] * action
    inputs = np.concatenate(
        [chunks.observations, between, time_features(jnp.asarray(t), config.time_frequency)], axis=1
    )
    error = (numpy_mlp(state.velocity.body, inputs) - (action - noise)).reshape(8, 2, 2) ** 2
    mask = np.asarray(chunks.step_mask)
    expected = (error.mean(-1) * mask).sum() / mask.sum()
    got = flow_matching.flow_matching_loss(state.velocity, chunks, key, config)
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_iql_losses_against_numpy():
    config = IQLConfig(hidden=SMALL, expectile=0.8)
    state = iql.init(jax.random.key(0), SPEC, config)
    state = dataclasses.replace(state, target=jax.tree.map(lambda x: x * 1.1, state.target))
    c = random_chunks()
    actions = c.actions.reshape(8, 4)
    members = lambda nets: [jax.tree.map(lambda x, n=n: x[n], nets.members) for n in range(2)]  # noqa: E731

    def q_of(nets):
        return np.stack([numpy_mlp(m, np.concatenate([c.observations, actions], 1))[:, 0] for m in members(nets)])

    whole = np.asarray(c.whole)
    target = np.asarray(c.returns) + np.asarray(c.bootstrap) * numpy_mlp(state.value.body, c.next_observations)[:, 0]
    expected_q = (whole * (q_of(state.critics) - target) ** 2).mean()
    difference = q_of(state.target).min(0) - numpy_mlp(state.value.body, c.observations)[:, 0]
    expected_v = (whole * np.abs(0.8 - (difference < 0)) * difference**2).mean()
    info = iql.evaluate(state, c, config)
    assert float(info["critic_loss"]) == pytest.approx(expected_q, rel=1e-4)
    assert float(info["value_loss"]) == pytest.approx(expected_v, rel=1e-4)


def test_iql_update_moves_the_target_by_its_rate_and_every_part_by_adam():
    config = IQLConfig(hidden=SMALL, target_rate=0.1)
    state = iql.init(jax.random.key(0), SPEC, config)
    state = dataclasses.replace(state, critics=jax.tree.map(lambda x: x + 1, state.critics))
    after, _ = iql.update(state, random_chunks(), config)
    weight = lambda nets: np.asarray(nets.members.layers[0].weight)  # noqa: E731
    expected = 0.1 * weight(state.critics) + 0.9 * weight(state.target)
    np.testing.assert_allclose(weight(after.target), expected, rtol=1e-6)
    # Adam's first step is the learning rate times the gradient's sign.
    step = weight(after.critics) - weight(state.critics)
    np.testing.assert_allclose(np.abs(step[np.abs(step) > 1e-6]), 3e-4, rtol=0.05)


def test_what_lies_beyond_a_recording_never_reaches_a_loss():
    rng = np.random.default_rng(0)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    steps = jnp.asarray(rng.integers(1, 4, 16), jnp.int32)
    windows = Windows(f(16, 3), f(16, 3), f(16, 2, 2), f(16, 3), jnp.ones((16, 3)), steps)
    beyond = np.arange(3)[None] >= np.asarray(steps)[:, None]
    assert beyond[:, :2].any()
    garbage = windows._replace(
        actions=jnp.where(beyond[:, :2, None], jnp.nan, windows.actions),
        rewards=jnp.where(beyond, 1e9, windows.rewards),
        masks=jnp.where(beyond, 0.0, windows.masks),
    )
    policy_config, critic_config = FlowMatchingConfig(hidden=SMALL), IQLConfig(hidden=SMALL)
    policy = flow_matching.init(jax.random.key(0), SPEC, policy_config)
    critic = iql.init(jax.random.key(0), SPEC, critic_config)

    def after(w):
        chunks = to_chunks(w, 0.9)
        one = flow_matching.update(policy, chunks, jax.random.key(1), policy_config)
        return one, iql.update(critic, chunks, critic_config)

    for a, b in zip(jax.tree.leaves(after(windows)), jax.tree.leaves(after(garbage)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_incomplete_chunk_is_no_sample_for_the_critic():
    chunks, config = random_chunks(16), IQLConfig(hidden=SMALL)
    broken = np.asarray(chunks.whole) == 0
    assert broken.any()
    assert not broken.all()
    changed = chunks._replace(
        returns=jnp.where(broken, 1e3, chunks.returns), actions=jnp.where(broken[:, None, None], 7.0, chunks.actions)
    )
    state = iql.init(jax.random.key(0), SPEC, config)
    a, b = (iql.update(state, c, config)[0] for c in (chunks, changed))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def feeds(data, chunk=3, horizon=4, tasks=("reach", "reach-far"), seeds=(7,)):
    spec = spec_of(data.train, chunk)
    normaliser = Normaliser.fit(data.train.observations)
    return [
        make_feed(
            kind, data.train, spec=spec, normaliser=normaliser, tasks=tasks, seeds=seeds, batch=5, horizon=horizon
        )
        for kind in ("memory", "stream")
    ]


def test_streamed_and_resident_batches_are_the_same_bytes(small_data):
    resident, stream = feeds(small_data)
    for first in (0, 4, 100):
        streamed, drawn = stream.payload(first, 4), resident.payload(first, 4)
        for n in range(4):
            part = jax.tree.map(lambda x, n=n: x[n, 0], streamed)
            for a, b in zip(resident.windows(resident.data, first + n, drawn[n, 0]), part, strict=True):
                np.testing.assert_array_equal(a, b)


def test_each_of_several_seeds_draws_the_batches_of_a_run_with_that_seed_alone(small_data):
    seeds = (7, 0, 2**31 + 5)
    for feed, *alone in zip(
        feeds(small_data, seeds=seeds), *(feeds(small_data, seeds=(s,)) for s in seeds), strict=True
    ):
        together = feed.payload(3, 2)
        batches = jax.vmap(partial(feed.windows, feed.data, 4))(jax.tree.map(lambda x: x[1], together))
        for number, one in enumerate(alone):
            part = jax.tree.map(lambda x: x[1, 0], one.payload(3, 2))
            for a, b in zip(batches, one.windows(one.data, 4, part), strict=True):
                np.testing.assert_array_equal(a[number], b)
        assert not np.array_equal(batches.observations[0], batches.observations[1])


def test_the_bytes_of_resident_data_are_told_before(small_data):
    resident, _ = feeds(small_data)
    told = resident_bytes(small_data.train, ("reach", "reach-far"))
    assert told == sum(x.nbytes for x in jax.tree.leaves(resident.data))


def test_batches_are_uniform_over_all_chunks(small_data):
    resident, _ = feeds(small_data)
    draw = jax.jit(jax.vmap(lambda step: resident.windows(resident.data, step, 7).observations[:, 0]))
    drawn = np.asarray(draw(jnp.arange(4000))).ravel()
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == small_data.train.transitions
    expected = len(drawn) / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < len(counts) + 5 * np.sqrt(2 * len(counts))


def small_config(data, run, **changes):
    base = TrainConfig(
        data=str(data.train.path.parent), run=Path(run), tasks=("reach",), chunk=2, updates=40, batch=8,
        policy=FlowMatchingConfig(hidden=SMALL), critic=IQLConfig(hidden=SMALL), log_every=10, call_updates=10,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def digest(run):
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(run).rglob("*"))
        if path.name in ("tensors.safetensors", "meta.json", "metrics.jsonl") and "checkpoints" not in path.parts
    }


def test_a_run_writes_artefacts_that_can_be_loaded_and_metrics(small_data, tmp_path):
    run = train(small_config(small_data, tmp_path / "run"))
    policy, critic = Policy.load(run / "policy"), Critic.load(run / "critic" / "reach")
    assert policy.spec == critic.spec
    assert critic.task == "reach"
    observations = jnp.asarray(small_data.train.observations[:4])
    assert np.isfinite(policy.velocity(observations, jnp.zeros((4, 4)), 0.5)).all()
    assert critic.q(observations, jnp.zeros((4, 4))).shape == (2, 4)
    # What the default's weight asks of both is measured.
    assert policy.scales["deviation"] > 0
    assert critic.scales["steepness"] > 0
    rows = read_lines(run / "metrics.jsonl")
    names = {(row["learner"], row["split"]) for row in rows}
    assert names == {(n, s) for n in ("policy", "critic/reach") for s in ("train", "val")}
    assert [r["step"] for r in rows if r["learner"] == "policy" and r["split"] == "train"] == [10, 20, 30, 40]


def test_training_together_or_apart_and_streamed_or_resident_gives_the_same(small_data, tmp_path):
    both = train(small_config(small_data, tmp_path / "both", tasks=("reach", "reach-far")))
    train(small_config(small_data, tmp_path / "apart", learn="policy"))
    train(small_config(small_data, tmp_path / "apart", learn="critic", feed="stream"))
    for a, b in (
        (Policy.load(both / "policy"), Policy.load(tmp_path / "apart" / "policy")),
        (Critic.load(both / "critic/reach"), Critic.load(tmp_path / "apart" / "critic/reach")),
    ):
        for x, y in zip(jax.tree.leaves(a.network), jax.tree.leaves(b.network), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_running_again_reuses_and_more_updates_continue(small_data, tmp_path, monkeypatch):
    began, begin = [], loop._begin

    def spy(*arguments):
        began.append(begin(*arguments))
        return began[-1]

    monkeypatch.setattr(loop, "_begin", spy)
    config = small_config(small_data, tmp_path / "run")
    first = digest(train(config))
    before = (tmp_path / "run/policy/meta.json").stat().st_mtime_ns
    assert digest(train(config)) == first
    assert (tmp_path / "run/policy/meta.json").stat().st_mtime_ns == before
    longer = digest(train(dataclasses.replace(config, updates=80)))
    assert longer == digest(train(dataclasses.replace(config, updates=80, run=tmp_path / "other")))
    assert [step for step, _ in began] == [0, 40, 0]
    with pytest.raises(SteerflowError, match="batch: 8 there, 9 now"):
        train(dataclasses.replace(config, batch=9))


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from steerflow.learn.config import *
    from steerflow.learn.train import train
    train(TrainConfig(data=sys.argv[1], run=Path(sys.argv[2]), tasks=("reach",), chunk=2, updates=int(sys.argv[3]),
        batch=8, policy=FlowMatchingConfig(hidden=(16, 16)), critic=IQLConfig(hidden=(16, 16)), log_every=100,
        call_updates=50, save_seconds=0))
""")


@pytest.mark.parametrize(
    "sign", [signal.SIGKILL, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGINT))]
)
def test_killed_at_random_points_it_ends_with_the_same_bytes(small_data, tmp_path, sign):
    updates = 3000
    command = [sys.executable, "-c", KILLED, str(small_data.train.path.parent)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    reference = tmp_path / "reference"
    subprocess.run([*command, str(reference), str(updates)], check=True, env=environment)
    rng, kills = np.random.default_rng(int(sign)), 0
    for _ in range(3):
        process = subprocess.Popen(
            [*command, str(tmp_path / "killed"), str(updates)], env=environment, stderr=subprocess.DEVNULL
        )
        # Let it get to its first checkpoint, then stop it anywhere.
        known = set((tmp_path / "killed/checkpoints/both").glob("[0-9]*"))
        while process.poll() is None and set((tmp_path / "killed/checkpoints/both").glob("[0-9]*")) <= known:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(sign)
            kills += 1
        process.wait()
    assert kills > 0
    assert list((tmp_path / "killed/checkpoints/both").glob("[0-9]*"))
    last = subprocess.run(
        [*command, str(tmp_path / "killed"), str(updates)], check=True, env=environment, capture_output=True, text=True
    )
    assert "Passing over" not in last.stderr
    assert digest(tmp_path / "killed") == digest(reference)


@pytest.mark.parametrize(
    ("handler", "stopped"), [(signal.SIG_IGN, False), (lambda *_: None, True)], ids=["ignored", "goes on"]
)
def test_what_a_signal_stopped_is_not_taken_for_finished(handler, stopped):
    # A job in the background ignores Ctrl-C; a program around steerflow may have a handler of its own.
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt) if stopped else nullcontext(), stoppable() as requested:
            signal.raise_signal(signal.SIGINT)
            assert requested() == stopped
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_update(small_data, tmp_path):
    bad = small_config(small_data, tmp_path / "run", critic=IQLConfig(hidden=SMALL, learning_rate=1e30))
    with pytest.raises(TrainingError, match="critic/reach is no longer finite at update"):
        train(bad)


@pytest.mark.parametrize(
    ("task", "discount", "told"),
    [
        ("cube-single-singletask-task2-v0", 0.99, None),  # 200 steps
        ("puzzle-3x3-play-singletask-task2-v0", 0.995, "looks 200 steps ahead.*may last 500"),
        ("puzzle-3x3-singletask-task2-v0", 0.999, None),
        ("reach", 0.5, None),  # nobody's environment
    ],
)
def test_a_discount_that_ends_long_before_the_episodes_is_told(task, discount, told):
    config = TrainConfig(data="d", run=Path("r"), tasks=(task,), critic=IQLConfig(discount=discount))
    line = loop.short_sighted(config)
    assert line is None if told is None else re.search(told, line or "")
    # Parts take the critics as they are.
    assert not loop.short_sighted(dataclasses.replace(config, learn="latent"))


def test_a_task_that_the_data_hardly_do_is_told(tmp_path):
    task, foreign = "cube-double-singletask-task1-v0", "reach"
    store = write_data(tmp_path / "points", length=60, task=foreign).train
    rewards, masks = np.zeros(store.rows, np.float32), np.ones(store.rows, np.float32)
    first, second, *_, last = store.episode_ends
    # Twice in the first episode, and over its end into the next; the state of the very last row has no step.
    masks[[2, 3, 5, first - 2, first - 1, first, second - 1, last - 1]] = 0
    store.add_task(task, rewards, masks)
    assert store.ends_of_task(task) == 4
    config = TrainConfig(data="d", run=Path("r"), tasks=(foreign, task))
    assert f"do {task} 4 times" in (loop.scarce(config, store) or "")
    # Of other tasks it is not known what their end means, and parts take the critics as they are.
    assert loop.scarce(dataclasses.replace(config, tasks=(foreign,)), store) is None
    assert loop.scarce(dataclasses.replace(config, learn="latent"), store) is None
    masks[::4] = 0
    store.add_task(task, rewards, masks)
    assert loop.scarce(config, store) is None


def test_bfloat16_learns_nearly_the_same_and_is_not_recommended_without_units_for_it(
    small_data, tmp_path, monkeypatch, capsys
):
    losses = {}
    for name, precision, units in (
        ("exact", "float32", False),
        ("units", "bfloat16", True),
        ("none", "bfloat16", False),
    ):
        monkeypatch.setattr(loop, "multiplies_bfloat16", lambda units=units: units)
        run = train(small_config(small_data, tmp_path / name, precision=precision, updates=10))
        assert ("no products of bfloat16" in capsys.readouterr().err) == (name == "none")
        rows = read_lines(run / "metrics.jsonl")
        losses[name] = np.array([row["loss"] for row in rows if "loss" in row and row["split"] == "val"])
    assert np.array_equal(losses["units"], losses["none"])
    assert not np.array_equal(losses["units"], losses["exact"])
    np.testing.assert_allclose(losses["units"], losses["exact"], rtol=0.02)


def test_a_damaged_checkpoint_is_passed_over(small_data, tmp_path):
    config = small_config(small_data, tmp_path / "run", save_seconds=0.0)
    reference = digest(train(dataclasses.replace(config, run=tmp_path / "reference", updates=80)))
    train(config)
    newest = sorted((tmp_path / "run/checkpoints/both").glob("[0-9]*"))[-1]
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-7])
    assert digest(train(dataclasses.replace(config, updates=80))) == reference


def test_a_half_written_checkpoint_of_a_killed_process_is_removed(small_data, tmp_path):
    config = small_config(small_data, tmp_path / "run")
    folder = tmp_path / "run/checkpoints/both/.0000000010.12345.tmp"
    folder.mkdir(parents=True)
    (folder / "tensors.safetensors").write_bytes(b"half")
    train(config)
    assert [path.name for path in folder.parent.iterdir()] == ["0000000040"]


def test_damaged_and_foreign_artefacts_are_named(small_data, tmp_path):
    run = train(small_config(small_data, tmp_path / "run"))
    with pytest.raises(ArtefactError, match=r"holds: policy\. Needed here: critic"):
        Critic.load(run / "policy")
    with pytest.raises(ArtefactError, match="Train one first"):
        Policy.load(tmp_path / "nothing")
    path = run / "policy/tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match="checksum"):
        Policy.load(run / "policy")
    (run / "policy/meta.json").write_text('{"format": 1')
    with pytest.raises(ArtefactError, match="not valid JSON"):
        Policy.load(run / "policy")


def test_two_processes_may_not_write_one_run_folder(small_data, tmp_path):
    from steerflow.run import locked

    with locked(tmp_path / "run"), pytest.raises(BusyError, match="Another process"):
        train(small_config(small_data, tmp_path / "run"))


def test_an_error_inside_a_locked_run_folder_is_not_taken_for_the_locks(tmp_path):
    from steerflow.run import locked

    with pytest.raises(FileNotFoundError, match="elsewhere"), locked(tmp_path / "run"):
        raise FileNotFoundError("elsewhere")
    with locked(tmp_path / "run"):
        pass


def test_a_critic_without_a_task_or_with_an_unknown_one_is_refused(small_data, tmp_path):
    with pytest.raises(SteerflowError, match="needs a task"):
        train(small_config(small_data, tmp_path / "run", tasks=()))
    with pytest.raises(SteerflowError, match="reach"):
        train(small_config(small_data, tmp_path / "run", tasks=("raech",)))
    # The mistake does not bind the run folder.
    train(small_config(small_data, tmp_path / "run", updates=5))
