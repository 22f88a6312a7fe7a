"""The networks of the parts. Each keeps its layers in ``body``, from which acting takes them (steer/acting.py)."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import lecun_normal
from jaxtyping import Array, Float, Key

from steerflow.learn.networks import MLP, noisy_inputs

# Features of the optimality that a velocity is told.
_EMBEDDING = 32


class AmortisedGradient(eqx.Module):
    """In place of a critic's gradient: ``dQ/da (observation, a) ~ scale * body(observation, a)``.

    ``scale`` is the root mean square of the gradient over the data, so that ``body`` learns numbers of size 1 whatever the
    rewards' unit; it is measured, not trained.
    """

    body: MLP
    scale: Float[Array, ""]

    def __init__(
        self,
        key: Key[Array, ""],
        observation_dim: int,
        flat_dim: int,
        hidden: tuple[int, ...],
        scale: Float[Array, ""] | float = 1.0,
    ) -> None:
        self.body = MLP(key, observation_dim + flat_dim, hidden, flat_dim)
        self.scale = jnp.asarray(scale, jnp.float32)

    def normalised(
        self, observations: Float[Array, "batch observation"], a: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        """The gradient in units of ``scale``."""
        return self.body(jnp.concatenate([observations, a], axis=-1))

    def __call__(
        self, observations: Float[Array, "batch observation"], a: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        return self.scale * self.normalised(observations, a)


class NoisyCritic(eqx.Module):
    """A critic that is asked about noisy chunks and knows how noisy they are: ``Q(observation, a_t, t)``."""

    body: MLP
    time_frequency: float = eqx.field(static=True)

    def __init__(
        self,
        key: Key[Array, ""],
        observation_dim: int,
        flat_dim: int,
        hidden: tuple[int, ...],
        time_frequency: float,
    ) -> None:
        self.body = MLP(key, observation_dim + flat_dim + 16, hidden, 1)
        self.time_frequency = time_frequency

    def __call__(
        self,
        observations: Float[Array, "batch observation"],
        a: Float[Array, "batch flat"],
        t: Float[Array, " batch"] | Float[Array, ""] | float,
    ) -> Float[Array, " batch"]:
        return self.body(noisy_inputs(observations, a, t, self.time_frequency))[:, 0]


class OptimalityVelocity(eqx.Module):
    """A velocity field that is told whether to imitate all actions or the better ones: ``v(observation, a_t, t, optimal)``."""

    body: MLP
    embedding: Float[Array, "2 features"]
    time_frequency: float = eqx.field(static=True)

    def __init__(
        self,
        key: Key[Array, ""],
        observation_dim: int,
        flat_dim: int,
        hidden: tuple[int, ...],
        time_frequency: float,
    ) -> None:
        body_key, embedding_key = jax.random.split(key)
        inputs = observation_dim + flat_dim + 16 + _EMBEDDING
        self.body = MLP(body_key, inputs, hidden, flat_dim, plain_last=True, output_init=lecun_normal())
        self.embedding = jax.random.normal(embedding_key, (2, _EMBEDDING)) / math.sqrt(_EMBEDDING)
        self.time_frequency = time_frequency

    def __call__(
        self,
        observations: Float[Array, "batch observation"],
        a: Float[Array, "batch flat"],
        t: Float[Array, " batch"] | Float[Array, ""] | float,
        optimal: bool,
    ) -> Float[Array, "batch flat"]:
        told = jnp.broadcast_to(self.embedding[int(optimal)], (len(a), _EMBEDDING))
        return self.body(jnp.concatenate([noisy_inputs(observations, a, t, self.time_frequency), told], axis=-1))


class NoiseActor(eqx.Module):
    """Where a flow should start: ``scale * tanh(mean(observation) + std(observation) * normal)``."""

    body: MLP
    noise_scale: float = eqx.field(static=True)

    def __init__(
        self, key: Key[Array, ""], observation_dim: int, flat_dim: int, hidden: tuple[int, ...], noise_scale: float
    ) -> None:
        self.body = MLP(key, observation_dim, hidden, 2 * flat_dim)
        self.noise_scale = noise_scale

    def gaussian(
        self, observations: Float[Array, "batch observation"]
    ) -> tuple[Float[Array, "batch flat"], Float[Array, "batch flat"]]:
        """Mean and log standard deviation, at most e^2 and at least e^-20, before the tanh."""
        mean, log_std = jnp.split(self.body(observations), 2, axis=-1)
        return mean, jnp.clip(log_std, -20.0, 2.0)

    def __call__(
        self, observations: Float[Array, "batch observation"], normal: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        mean, log_std = self.gaussian(observations)
        return self.noise_scale * jnp.tanh(mean + jnp.exp(log_std) * normal)
