"""CFGRL: its loss and the split by advantage, what it converges to, and its guidance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parts_for_tests import CURVATURE, chunks_of, learn, network_of, plain_mlp, plain_times, teacher_of
from steerflow.learn import optimal
from steerflow.learn.config import FlowMatchingConfig, OptimalConfig
from steerflow.steer.guidance import ClassifierFree
from steerflow.steer.presets import recipe
from steerflow.steer.sample import sample

CONFIG = OptimalConfig(hidden=(8, 8))


@pytest.mark.parametrize("flow_time", ["uniform", "grid"])
def test_the_loss_against_numpy(flow_time):
    value = lambda observations: -5 + observations[:, 0]  # noqa: E731
    flow = FlowMatchingConfig(flow_time=flow_time, time_frequency=30.0)
    teacher, key = teacher_of(value=value, flow=flow), jax.random.key(4)
    network, chunks = network_of("optimal", CONFIG, teacher), chunks_of(jax.random.key(1), 50)
    # Two steps of one dimension, of which some second ones lie beyond the recording.
    mask = np.ones((50, 2))
    mask[:20, 1] = 0
    chunks = chunks._replace(actions=chunks.actions.reshape(50, 2, 1), step_mask=jnp.asarray(mask, jnp.float32))
    loss, info = optimal.loss(network, chunks, CONFIG, teacher, key)
    s, action = (np.asarray(x, np.float64).reshape(50, 2) for x in (chunks.observations, chunks.actions))
    noise_key, time_key = jax.random.split(key)
    noise = np.asarray(jax.random.normal(noise_key, (50, 2)), np.float64)
    t = np.asarray(
        jax.random.uniform(time_key, (50,))
        if flow_time == "uniform"
        else jax.random.randint(time_key, (50,), 0, 11) / 10
    )
    a = (1 - t[:, None]) * noise + t[:, None] * action
    better = -0.5 * (CURVATURE * (action - np.sin(3 * s)) ** 2).sum(1) > -5 + s[:, 0]
    errors = []
    for told in (0, 1):
        embedded = np.tile(np.asarray(network.embedding, np.float64)[told], (50, 1))
        v = plain_mlp(network.body, np.concatenate([s, a, plain_times(t, 30.0), embedded], axis=1))
        errors.append((v - (action - noise)) ** 2 * mask)
    assert 0.1 < better.mean() < 0.9
    assert float(info["optimal"]) == pytest.approx(better.mean())
    assert float(info["unconditional_loss"]) == pytest.approx(errors[0].sum() / mask.sum(), rel=1e-4)
    expected = (better[:, None] * errors[1] + 0.1 * errors[0]).sum() / mask.sum()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_worse_actions_teach_only_the_flow_of_all_actions():
    teacher = teacher_of(value=lambda observations: jnp.full(len(observations), 1e6))
    network, chunks = network_of("optimal", CONFIG, teacher), chunks_of(jax.random.key(1), 20)
    gradient = jax.grad(lambda n: optimal.loss(n, chunks, CONFIG, teacher, jax.random.key(0))[0])(network)
    np.testing.assert_array_equal(gradient.embedding[1], 0)
    assert np.abs(gradient.embedding[0]).max() > 0


def test_at_pure_noise_the_guidance_is_the_better_halfs_shift_of_the_mean():
    """Q = a_1 of N(m, std^2) against V = m: the better half has mean m + std sqrt(2 / pi), and v = mean - a at t = 0."""
    std = 0.2
    teacher = teacher_of(q=lambda o, a: a[:, 0], value=lambda o: 0.5 * o[:, 0])
    config = OptimalConfig(hidden=(64, 64), learning_rate=3e-3)
    network = learn("optimal", config, teacher, 3000, batch=256, std=std)
    rng = np.random.default_rng(0)
    s, a = (
        jnp.asarray(rng.uniform(-0.8, 0.8, (500, 2)), jnp.float32),
        jnp.asarray(rng.normal(size=(500, 2)), jnp.float32),
    )
    models = teacher.models._replace(parts={"optimal": network})
    g = ClassifierFree()(models, s, a, jnp.asarray(0.0), jnp.zeros_like(a))
    np.testing.assert_array_equal(g, network(s, a, 0.0, True) - network(s, a, 0.0, False))
    assert float(g[:, 0].mean()) == pytest.approx(std * np.sqrt(2 / np.pi), abs=0.03)
    assert float(g[:, 1].mean()) == pytest.approx(0, abs=0.03)
    keys = jax.random.split(jax.random.key(0), 500)
    plain, zero, guided = (
        sample(keys, s, models, recipe(name, **changes), flat=2).actions
        for name, changes in (("bc", {}), ("cfgrl", {"weight": 0.0}), ("cfgrl", {"weight": 3.0}))
    )
    np.testing.assert_array_equal(plain, zero)
    assert float((guided - plain)[:, 0].mean()) > 2 * std * np.sqrt(2 / np.pi)
