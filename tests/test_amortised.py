"""Amortised guidance: what it learns from, its loss, and what it predicts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parts_for_tests import CURVATURE, chunks_of, learn, network_of, quadratic, states, teacher_of, velocity
from steerflow.learn import amortised
from steerflow.learn.amortised import Points
from steerflow.learn.config import AmortisedConfig
from steerflow.steer.presets import recipe
from steerflow.steer.sample import sample

TEACHER = teacher_of()


def test_points_are_estimates_on_the_datas_path_and_where_guidance_takes_them():
    chunks, key = chunks_of(jax.random.key(0), 2000), jax.random.key(1)
    got = amortised.points_of(TEACHER, chunks, key, jnp.asarray(20.0))
    s, action = (np.asarray(x, np.float64).reshape(2000, 2) for x in (chunks.observations, chunks.actions))
    noise_key, time_key, weight_key = jax.random.split(key, 3)
    t = np.asarray(jax.random.uniform(time_key, (2000,)), np.float64)[:, None]
    a = (1 - t) * np.asarray(jax.random.normal(noise_key, (2000, 2))) + t * action
    estimate = np.clip(a + (1 - t) * np.asarray(velocity(s, a, t)), -1, 1)
    gradient = CURVATURE * (np.sin(3 * s) - estimate)
    weight = 0.5 / 20.0 * np.asarray(jax.random.uniform(weight_key, (2000, 1)), np.float64)
    moved = np.clip(estimate + weight * gradient, -1, 1)
    for found, first, second in zip(
        got, (s, estimate, gradient), (s, moved, CURVATURE * (np.sin(3 * s) - moved)), strict=True
    ):
        np.testing.assert_allclose(found, np.concatenate([first, second]), rtol=1e-3, atol=1e-3)


def test_the_loss_against_numpy():
    config = AmortisedConfig(hidden=(8, 8))
    network = amortised.init(network_of("amortised", config, TEACHER), config, TEACHER, jax.random.key(0))
    scale, rng = float(network.scale), np.random.default_rng(0)
    points = Points(*(jnp.asarray(rng.normal(size=(6, 2)), jnp.float32) for _ in range(3)))
    loss, info = amortised.distillation_loss(network, points)
    predicted = np.asarray(network(points.observations, points.estimates), np.float64)
    g = np.asarray(points.gradients, np.float64)
    assert float(loss) == pytest.approx((((predicted - g) / scale) ** 2).mean(), rel=1e-4)
    assert float(info["relative_error"]) == pytest.approx(np.linalg.norm(predicted - g) / np.linalg.norm(g), rel=1e-4)
    cosines = (predicted * g).sum(1) / np.linalg.norm(predicted, axis=1) / np.linalg.norm(g, axis=1)
    assert float(info["cosine"]) == pytest.approx(cosines.mean(), rel=1e-4)


def test_the_scale_is_the_gradients_root_mean_square_at_estimates_from_noise():
    config, s = AmortisedConfig(hidden=(8, 8)), np.asarray(states(0, 4000))
    noise = np.random.default_rng(1).normal(size=s.shape)
    estimates = np.clip(noise + np.asarray(velocity(s, noise, 0.0)), -1, 1)
    expected = np.sqrt(((CURVATURE * (np.sin(3 * s) - estimates)) ** 2).mean())
    for factor in (1.0, 1000.0):
        teacher = teacher_of(lambda observations, a, k=factor: k * quadratic(observations, a), states=jnp.asarray(s))
        got = amortised.init(network_of("amortised", config, teacher), config, teacher, jax.random.key(0))
        assert float(got.scale) == pytest.approx(factor * expected, rel=0.05)


@pytest.fixture(scope="module")
def distilled():
    """A network distilled from the quadratic critic in a few seconds."""
    return learn("amortised", AmortisedConfig(hidden=(64, 64), learning_rate=3e-3), TEACHER, 1500)


def test_learning_leaves_the_scale(distilled):
    config = AmortisedConfig(hidden=(64, 64))
    first = amortised.init(network_of("amortised", config, TEACHER), config, TEACHER, jax.random.key(3))
    assert float(distilled.scale) == float(first.scale)


def test_the_gradient_is_reproduced_on_held_out_states(distilled):
    chunks, key = chunks_of(jax.random.key(5), 400), jax.random.key(9)
    points = amortised.points_of(TEACHER, chunks, key, distilled.scale)
    exact = CURVATURE * (np.sin(3 * np.asarray(points.observations)) - np.asarray(points.estimates))
    predicted = np.asarray(distilled(points.observations, points.estimates))
    assert np.linalg.norm(predicted - exact) / np.linalg.norm(exact) < 0.05
    _, info = amortised.loss(distilled, chunks, AmortisedConfig(), TEACHER, key)
    assert float(info["relative_error"]) < 0.05
    assert float(info["cosine"]) > 0.98


def test_it_steers_as_the_critic_does_at_the_same_weight(distilled):
    models, keys = TEACHER.models._replace(parts={"amortised": distilled}), jax.random.split(jax.random.key(3), 200)
    plain, exact, predicted = (
        np.asarray(sample(keys, states(2, 200), models, recipe(name, **changes), flat=2).actions)
        for name, changes in (("bc", {}), ("qgf", {"weight": 0.03}), ("qgf_amortised", {"weight": 0.03}))
    )
    # The mean distance to the critic's choice is a small part of what guidance moves.
    assert np.abs(predicted - exact).mean() < 0.1 * np.abs(exact - plain).mean()
