"""Distilling a critic's gradient into a small network, at the estimates that flow steps are guided by.

With velocity ``v`` and critic ``Q`` frozen, and ``a_t`` between noise and the data's action, the network learns

    g(a_1) = dQ/da (s, a_1)    at    a_1 = clip(a_t + (1 - t) v(s, a_t, t), -1, 1)    and at    clip(a_1 + w g(a_1), -1, 1)

The second is where guidance of weight ``w`` takes the first: following guided flows to find such points costs more, and their
steps are so alike that less is learnt from each. The network sees the estimate and not ``(a_t, t)``: the gradient depends on
nothing else, and the sampler has computed it anyway.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from steerflow.amortised import AmortisedGradient
from steerflow.data.index import Chunks
from steerflow.learn.config import AmortiseConfig
from steerflow.learn.path import interpolate
from steerflow.spec import Spec
from steerflow.steer.models import Models

# The largest weight times the gradient's scale. Estimates are of size 1, as scaled actions are; good weights have been found at
# 0.05 to 0.25 of that.
_REACH = 0.5


class AmortisedState(eqx.Module):
    network: AmortisedGradient
    optimiser: Any


class Points(NamedTuple):
    """What is learnt from."""

    observations: Float[Array, "points obs"]
    estimates: Float[Array, "points flat"]
    gradients: Float[Array, "points flat"]


def init(
    key: Key[Array, ""], spec: Spec, config: AmortiseConfig, teacher: Models, states: Float[Array, "states obs"]
) -> AmortisedState:
    """A network whose scale is measured: the root mean square of ``g`` at the estimates from pure noise in ``states``."""
    noise_key, network_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (states.shape[0], spec.flat_dim))
    estimates = jnp.clip(noise + teacher.velocity(states, noise, jnp.zeros(())), -1.0, 1.0)
    scale = jnp.sqrt(jnp.mean(teacher.q_gradient(states, estimates) ** 2))
    network = AmortisedGradient(network_key, spec.observation_dim, spec.flat_dim, config.hidden, scale)
    return AmortisedState(network, optax.adam(config.learning_rate).init(network))  # pyright: ignore[reportArgumentType]


def points_of(teacher: Models, chunks: Chunks, key: Key[Array, ""], scale: Float[Array, ""]) -> Points:
    """Two points for each chunk: an estimate on the way to its action, and the same moved by guidance of a random weight.

    ``w`` is uniform on [0, 0.5 / scale], ``t`` on [0, 1].
    """
    noise_key, time_key, weight_key = jax.random.split(key, 3)
    observations, batch = chunks.observations, chunks.observations.shape[0]
    action = chunks.actions.reshape(batch, -1)
    t = jax.random.uniform(time_key, (batch,))
    a = interpolate(jax.random.normal(noise_key, action.shape), action, t)
    estimate = jnp.clip(a + (1 - t[:, None]) * teacher.velocity(observations, a, t), -1.0, 1.0)
    gradient = teacher.q_gradient(observations, estimate)
    weight = _REACH / scale * jax.random.uniform(weight_key, (batch, 1))
    moved = jnp.clip(estimate + weight * gradient, -1.0, 1.0)
    return Points(
        jnp.concatenate([observations, observations]),
        jnp.concatenate([estimate, moved]),
        jnp.concatenate([gradient, teacher.q_gradient(observations, moved)]),
    )


def distillation_loss(
    network: AmortisedGradient, points: Points
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean of ``|body(s, a_1) - g / scale|^2`` over points and dimensions; ``points.observations`` as the network sees them.

    Reported beside it: ``relative_error``, the root of the summed squared error over that of the gradient (1 is as good as no
    guidance), and ``cosine``, the mean over points.
    """
    target = points.gradients / jax.lax.stop_gradient(network.scale)
    predicted = network.normalised(points.observations, points.estimates)
    squared = (predicted - target) ** 2
    norms = jnp.linalg.norm(predicted, axis=-1) * jnp.linalg.norm(target, axis=-1)
    return jnp.mean(squared), {
        "relative_error": jnp.sqrt(jnp.sum(squared) / jnp.sum(target**2)),
        "cosine": jnp.mean(jnp.sum(predicted * target, axis=-1) / jnp.maximum(norms, 1e-12)),
    }


def update(
    state: AmortisedState, points: Points, config: AmortiseConfig
) -> tuple[AmortisedState, dict[str, Float[Array, ""]]]:
    """One step of Adam on the loss; the scale stays as it is."""
    (loss, info), gradient = jax.value_and_grad(distillation_loss, has_aux=True)(state.network, points)
    step, optimiser = optax.adam(config.learning_rate).update(gradient, state.optimiser)
    network = optax.apply_updates(state.network, step)  # pyright: ignore[reportArgumentType]
    return AmortisedState(network, optimiser), {"loss": loss, **info}  # pyright: ignore[reportArgumentType]


def evaluate(state: AmortisedState, points: Points) -> dict[str, Float[Array, ""]]:
    """The same loss without a step, for validation data."""
    loss, info = distillation_loss(state.network, points)
    return {"loss": loss, **info}
