"""RobustQ: its loss, what it converges to, and its guidance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parts_for_tests import CURVATURE, chunks_of, learn, network_of, plain_mlp, plain_times, quadratic, teacher_of
from steerflow.learn import robust
from steerflow.learn.config import FlowMatchingConfig, RobustConfig
from steerflow.steer.guidance import Robust


def test_the_loss_against_numpy():
    config, key = RobustConfig(hidden=(8, 8)), jax.random.key(4)
    # What the network sees is not what the critic is given.
    teacher = teacher_of(sees=lambda observations: 2 * observations + 1)
    network, chunks = network_of("robust", config, teacher), chunks_of(jax.random.key(1), 50)
    loss, info = robust.loss(network, chunks, config, teacher, key)
    s, action = (np.asarray(x, np.float64).reshape(50, 2) for x in (chunks.observations, chunks.actions))
    noise_key, time_key = jax.random.split(key)
    t = np.asarray(jax.random.uniform(time_key, (50,)), np.float64)
    a = (1 - t[:, None]) * np.asarray(jax.random.normal(noise_key, (50, 2))) + t[:, None] * action
    predicted = plain_mlp(network.body, np.concatenate([2 * s + 1, a, plain_times(t, 100.0)], axis=1))[:, 0]
    target = -0.5 * (CURVATURE * (action - np.sin(3 * s)) ** 2).sum(1)
    assert float(loss) == pytest.approx(((predicted - target) ** 2).mean(), rel=1e-3)
    assert float(info["unexplained"]) == pytest.approx(((predicted - target) ** 2).mean() / target.var(), rel=1e-3)


def test_it_approaches_the_expectation_of_q_given_the_noisy_action():
    """With a_1 ~ N(m, std^2) and a_t = (1 - t) a_0 + t a_1, a_1 given a_t is Gaussian, and Q is quadratic around m + 0.2: all
    that can be known of it is in a_t and t."""
    std = 0.2
    q = lambda o, a: -0.5 * jnp.sum(CURVATURE * (a - 0.5 * o - 0.2) ** 2, axis=-1)  # noqa: E731
    teacher = teacher_of(q, flow=FlowMatchingConfig(time_frequency=5.0))
    network = learn("robust", RobustConfig(hidden=(64, 64), learning_rate=3e-3), teacher, 3000, batch=256, std=std)
    rng = np.random.default_rng(0)
    s, t = rng.uniform(-0.8, 0.8, (2000, 2)), rng.uniform(0, 0.9, (2000, 1))
    a = (1 - t) * rng.normal(size=(2000, 2)) + t * (0.5 * s + std * rng.normal(size=(2000, 2)))
    precision = 1 / std**2 + t**2 / (1 - t) ** 2
    mean = (0.5 * s / std**2 + t * a / (1 - t) ** 2) / precision
    expected = -0.5 * (CURVATURE * ((mean - 0.5 * s - 0.2) ** 2 + 1 / precision)).sum(1)
    got = np.asarray(network(*(jnp.asarray(x, jnp.float32) for x in (s, a, t[:, 0]))))
    assert np.sqrt(((got - expected) ** 2).mean()) < 0.35 * expected.std()
    assert np.corrcoef(got, expected)[0, 1] > 0.95


def test_its_guidance_is_the_gradient_of_each_row_at_the_noisy_action():
    models = teacher_of().models._replace(parts={"robust": lambda o, a, t: (1 + t) * quadratic(o, a)})
    rng, t = np.random.default_rng(1), 0.4
    s, a = (jnp.asarray(rng.uniform(-1, 1, (7, 2)), jnp.float32) for _ in range(2))
    got = Robust()(models, s, a, jnp.asarray(t), jnp.zeros_like(a))
    np.testing.assert_allclose(got, (1 + t) * CURVATURE * (np.sin(3 * np.asarray(s)) - a), rtol=1e-4, atol=1e-4)
