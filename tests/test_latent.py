"""DSRL: its losses, the density of its actor, and where it starts a linear flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parts_for_tests import CURVATURE, STD, chunks_of, learn, network_of, plain_mlp, states, teacher_of
from steerflow.learn import latent
from steerflow.learn.config import LatentConfig
from steerflow.steer.presets import recipe
from steerflow.steer.sample import sample


def plain_endpoint(s, z, steps):
    """Euler along the exact velocity from N(0, 1) to N(0.5 s, STD^2), then the clip, in float64."""
    a, mean = np.asarray(z, np.float64), 0.5 * np.asarray(s, np.float64)
    for t in np.arange(steps) / steps:
        a = a + (mean + (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2) * (a - t * mean)) / steps
    return np.clip(a, -1, 1)


def test_the_losses_against_numpy():
    config, teacher, key = LatentConfig(hidden=(8, 8), noise_scale=1.5, steps=7), teacher_of(), jax.random.key(4)
    learnt = latent.init(network_of("latent", config, teacher), config, teacher, jax.random.key(5))
    learnt = latent.Latent(learnt.actor, learnt.critics, jnp.asarray(0.3))
    chunks = chunks_of(jax.random.key(1), 30)
    loss, info = latent.loss(learnt, chunks, config, teacher, key)

    s = np.asarray(chunks.observations, np.float64)
    start_key, actor_key = jax.random.split(key)
    critics = lambda z: np.stack(  # noqa: E731
        [plain_mlp(learnt.critics.members, np.concatenate([s, z], axis=1), member)[:, 0] for member in range(2)]
    )
    z = np.asarray(jax.random.normal(start_key, (30, 2)), np.float64)
    q = -0.5 * (CURVATURE * (plain_endpoint(s, z, 7) - np.sin(3 * s)) ** 2).sum(1)
    critic_loss = ((critics(z) - np.stack([q, q + 1])) ** 2).mean()
    normal = np.asarray(jax.random.normal(actor_key, (30, 2)), np.float64)
    mean, log_std = np.split(plain_mlp(learnt.actor.body, s), 2, axis=1)
    u = mean + np.exp(log_std) * normal
    density = -0.5 * normal**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(u) ** 2)
    entropy, temperature = -density.sum(1).mean(), np.exp(0.3)
    actor_loss = temperature * -entropy - critics(1.5 * np.tanh(u)).mean()
    # The target entropy is minus half the dimensions: -1.
    expected = critic_loss + actor_loss + temperature * (entropy + 1)
    assert float(info["critic_loss"]) == pytest.approx(critic_loss, rel=1e-4)
    assert float(info["actor_loss"]) == pytest.approx(actor_loss, rel=1e-4)
    assert float(info["entropy"]) == pytest.approx(entropy, rel=1e-4)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    gradient = jax.grad(lambda learnt: latent.loss(learnt, chunks, config, teacher, key)[0])(learnt)
    assert float(gradient.log_temperature) == pytest.approx(temperature * (entropy + 1), rel=1e-3)


def test_noise_critics_do_not_move_to_please_the_actor():
    config, teacher, key = LatentConfig(hidden=(8, 8)), teacher_of(), jax.random.key(4)
    learnt = latent.init(network_of("latent", config, teacher), config, teacher, jax.random.key(5))
    chunks = chunks_of(jax.random.key(1), 30)
    total, alone = (
        jax.grad(lambda learnt, part=part: part(latent.loss(learnt, chunks, config, teacher, key)))(learnt)
        for part in (lambda out: out[0], lambda out: out[1]["critic_loss"])
    )
    for x, y in zip(jax.tree.leaves(total.critics), jax.tree.leaves(alone.critics), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert np.abs(total.actor.body.output.weight).max() > 0


def test_a_density_far_out_is_finite_and_exact():
    """For u = 30, tanh u rounds to 1 and its density's logarithm to 2 u - log 4 above that of u."""
    network = network_of("latent", LatentConfig(hidden=(4,)), teacher_of())
    normal, seen = jnp.full((1, 2), 30.0), states(0, 1)
    _, density = latent.actor_sample(network, seen, normal)
    mean, log_std = (np.asarray(x, np.float64) for x in network.gaussian(seen))
    u = mean + np.exp(log_std) * 30
    expected = (-0.5 * 30.0**2 - log_std - 0.5 * np.log(2 * np.pi) + 2 * np.abs(u) - np.log(4)).sum()
    assert float(density[0]) == pytest.approx(expected, rel=1e-4)


def test_on_a_linear_flow_the_actor_starts_where_the_flow_ends_at_the_optimum():
    aim = lambda o: 0.5 * o + jnp.asarray([0.12, -0.06])  # noqa: E731
    teacher = teacher_of(lambda o, a: -20 * jnp.sum((a - aim(o)) ** 2, axis=-1))
    config = LatentConfig(hidden=(64, 64), learning_rate=3e-3)
    learnt = learn("latent", config, teacher, 2500, batch=256)
    s = states(3, 300)
    models, keys = teacher.models._replace(parts={"latent": learnt.actor}), jax.random.split(jax.random.key(0), 300)
    got = sample(keys, s, models, recipe("dsrl"), flat=2, keep_path=True)
    # The endpoint is affine in the start: solve for the start whose endpoint is the aim.
    offset = plain_endpoint(s, np.zeros((300, 2)), 10)
    slope = (plain_endpoint(0 * s, np.full((300, 2), 0.1), 10) - plain_endpoint(0 * s, np.zeros((300, 2)), 10)) / 0.1
    best = (np.asarray(aim(s)) - offset) / slope
    assert np.abs(best).max() < 0.9
    assert got.path is not None
    np.testing.assert_allclose(np.asarray(got.path[0]).mean(0), best.mean(0), atol=0.06)
    plain = sample(keys, s, models, recipe("bc"), flat=2)
    assert np.square(got.actions - aim(s)).mean() < 0.2 * np.square(plain.actions - aim(s)).mean()
