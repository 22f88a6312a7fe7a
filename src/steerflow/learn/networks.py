"""The networks: plain perceptrons over batches. All are frozen pytrees of arrays; settings that pick code are static."""

from __future__ import annotations

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import lecun_normal, variance_scaling
from jaxtyping import Array, Float, Key

from steerflow.learn.products import product, standardise, to_rows

_xavier = variance_scaling(1.0, "fan_avg", "uniform")


class Dense(eqx.Module):
    """``x @ weight + bias``."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, key: Key[Array, ""], inputs: int, outputs: int, init=_xavier) -> None:
        self.weight = init(key, (inputs, outputs), jnp.float32)
        self.bias = jnp.zeros((outputs,))

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        return product(x, self.weight) + to_rows(self.bias, len(x))


class LayerNorm(eqx.Module):
    """Mean 0 and variance 1 over the features, then a learned scale and shift (Ba et al. 2016)."""

    scale: Float[Array, " features"]
    shift: Float[Array, " features"]

    def __init__(self, features: int) -> None:
        self.scale, self.shift = jnp.ones((features,)), jnp.zeros((features,))

    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
        return standardise(x) * to_rows(self.scale, len(x)) + to_rows(self.shift, len(x))


class MLP(eqx.Module):
    """Hidden layers with GELU and layer norm, then a linear output.

    order "norm_first" (QGF): Dense, LayerNorm, GELU; "norm_last" (FQL, QAM, DQC): Dense, GELU, LayerNorm.
    ``plain_last`` leaves the last hidden layer without a norm, as QGF's velocity has it.
    """

    layers: tuple[Dense, ...]
    norms: tuple[LayerNorm | None, ...]
    output: Dense
    order: Literal["norm_first", "norm_last"] = eqx.field(static=True)

    def __init__(
        self,
        key: Key[Array, ""],
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        *,
        order: Literal["norm_first", "norm_last"] = "norm_first",
        plain_last: bool = False,
        output_init=_xavier,
    ) -> None:
        keys = jax.random.split(key, len(hidden) + 1)
        widths = (inputs, *hidden)
        self.layers = tuple(Dense(k, i, o) for k, i, o in zip(keys, widths[:-1], widths[1:], strict=False))
        last = len(hidden) - 1
        self.norms = tuple(None if plain_last and n == last else LayerNorm(width) for n, width in enumerate(hidden))
        self.output = Dense(keys[-1], widths[-1], outputs, output_init)
        self.order = order

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = layer(x)
            x = (
                jax.nn.gelu(x)
                if norm is None
                else jax.nn.gelu(norm(x))
                if self.order == "norm_first"
                else norm(jax.nn.gelu(x))
            )
        return self.output(x)


def time_features(t: Float[Array, " batch"], highest: float) -> Float[Array, "batch 16"]:
    """``[cos(w_i t), sin(w_i t)]`` for eight frequencies ``w_i = highest^(1 - i/8)``, i = 0 .. 7.

    QGF's code has highest = 10000: apart on its 11-point grid, but noise between the points.
    """
    frequencies = jnp.exp(math.log(highest) * (1 - jnp.arange(8) / 8))
    angles = t[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def noisy_inputs(
    observations: Float[Array, "batch observation"],
    a: Float[Array, "batch flat"],
    t: Float[Array, " batch"] | Float[Array, ""] | float,
    highest: float,
) -> Float[Array, "batch inputs"]:
    """What a network of noisy chunks sees: ``[observation, a_t, time_features(t)]``."""
    times = jnp.broadcast_to(jnp.asarray(t, a.dtype), a.shape[:1])
    return jnp.concatenate([observations, a, time_features(times, highest)], axis=-1)


class Velocity(eqx.Module):
    """The flow policy's velocity field ``v(observation, a_t, t)``, in actions scaled to [-1, 1]."""

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
        inputs = observation_dim + flat_dim + 16
        self.body = MLP(key, inputs, hidden, flat_dim, plain_last=True, output_init=lecun_normal())
        self.time_frequency = time_frequency

    def __call__(
        self,
        observations: Float[Array, "batch observation"],
        a: Float[Array, "batch flat"],
        t: Float[Array, " batch"] | Float[Array, ""] | float,
    ) -> Float[Array, "batch flat"]:
        return self.body(noisy_inputs(observations, a, t, self.time_frequency))


class Critics(eqx.Module):
    """An ensemble of critics ``Q_e(observation, chunk)``; parameters have a leading ensemble axis."""

    members: MLP

    def __init__(
        self, key: Key[Array, ""], observation_dim: int, flat_dim: int, hidden: tuple[int, ...], ensemble: int
    ) -> None:
        make = lambda k: MLP(k, observation_dim + flat_dim, hidden, 1)  # noqa: E731
        self.members = jax.vmap(make)(jax.random.split(key, ensemble))

    def __call__(
        self, observations: Float[Array, "batch observation"], actions: Float[Array, "batch flat"]
    ) -> Float[Array, "ensemble batch"]:
        inputs = jnp.concatenate([observations, actions], axis=-1)
        ensemble = self.members.output.bias.shape[0]
        # A copy for each member: with one for all, XLA makes one wide product and then transposes its result.
        return jax.vmap(lambda member, x: member(x)[:, 0])(
            self.members, jnp.broadcast_to(inputs, (ensemble, *inputs.shape))
        )


class Value(eqx.Module):
    """The value ``V(observation)``."""

    body: MLP

    def __init__(self, key: Key[Array, ""], observation_dim: int, hidden: tuple[int, ...]) -> None:
        self.body = MLP(key, observation_dim, hidden, 1)

    def __call__(self, observations: Float[Array, "batch observation"]) -> Float[Array, " batch"]:
        return self.body(observations)[:, 0]
