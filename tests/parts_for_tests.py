"""A teacher in closed form, its data, and a plain loop that learns a part from it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from steerflow.data.index import Chunks
from steerflow.learn.config import FlowMatchingConfig
from steerflow.learn.distil import LEARNERS
from steerflow.learn.teacher import Teacher
from steerflow.part import NETWORKS
from steerflow.spec import Spec
from steerflow.steer.models import Models

SPEC = Spec(2, 2, 1, (-1.0, -1.0), (1.0, 1.0))
STD, CURVATURE = 0.3, np.asarray([40.0, 10.0], np.float32)


def velocity(observations, a, t):
    """The exact velocity from N(0, 1) to N(0.5 s, STD^2)."""
    mean, t = 0.5 * observations, jnp.reshape(t, (-1, 1))
    return mean + (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2) * (a - t * mean)


def quadratic(observations, a):
    """Its gradient is ``CURVATURE (sin(3 s) - a)``."""
    return -0.5 * jnp.sum(CURVATURE * (a - jnp.sin(3 * observations)) ** 2, axis=-1)


def states(seed, n):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, 2)), jnp.float32)


def teacher_of(q=quadratic, **changes):
    """Two critics, ``q`` and 1 above it, of which the smaller is asked."""
    teacher = Teacher(
        models=Models(velocity, q),
        ensemble=lambda observations, a: jnp.stack([q(observations, a), q(observations, a) + 1]),
        value=lambda observations: jnp.zeros(len(observations)),
        sees=lambda observations: observations,
        flow=FlowMatchingConfig(),
        states=states(0, 500),
    )
    return teacher._replace(**changes)


def chunks_of(key, n, std=STD):
    """States and data actions N(0.5 s, std^2), of which few are clipped."""
    state_key, action_key = jax.random.split(key)
    observations = jax.random.uniform(state_key, (n, 2), minval=-1, maxval=1)
    actions = jnp.clip(0.5 * observations + std * jax.random.normal(action_key, (n, 2)), -1, 1)
    return Chunks(observations, observations, actions[:, None], *(jnp.ones((n, 1)) for _ in range(4)))


def network_of(kind, config, teacher, spec=SPEC, seed=2) -> Any:
    """A new network of a kind."""
    settings = LEARNERS[kind].network_settings(config, teacher.flow)
    return NETWORKS[kind](jax.random.key(seed), spec.observation_dim, spec.flat_dim, **settings)


def learn(kind, config, teacher, updates, *, batch=128, std=STD):
    """What is learnt after some updates, in a few seconds."""
    learner, adam = LEARNERS[kind], optax.adam(config.learning_rate)

    def one(state, step):
        learnt, optimiser = state
        key = jax.random.fold_in(jax.random.key(0), step)
        chunks = chunks_of(jax.random.fold_in(key, 1), batch, std)
        gradient, _ = jax.grad(learner.loss, has_aux=True)(learnt, chunks, config, teacher, key)
        change, optimiser = adam.update(gradient, optimiser)
        return (optax.apply_updates(learnt, change), optimiser), None

    learnt = learner.init(network_of(kind, config, teacher), config, teacher, jax.random.key(3))
    state = learnt, adam.init(learnt)
    return jax.jit(lambda state: jax.lax.scan(one, state, jnp.arange(updates)))(state)[0][0]


def plain_mlp(mlp, x, member=None):
    """Dense, layer norm (where there is one), GELU, and a linear output, in float64."""
    get = lambda a: np.asarray(a if member is None else a[member], np.float64)  # noqa: E731
    for layer, norm in zip(mlp.layers, mlp.norms, strict=True):
        x = x @ get(layer.weight) + get(layer.bias)
        if norm is not None:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * get(norm.scale) + get(norm.shift)
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ get(mlp.output.weight) + get(mlp.output.bias)


def plain_times(t, highest):
    angles = np.asarray(t, np.float64)[:, None] * highest ** (1 - np.arange(8) / 8)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
