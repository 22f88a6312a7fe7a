"""Amortised guidance: a critic's gradient distilled into a small network, at the estimates that flow steps are guided by.

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
from jaxtyping import Array, Float, Key

from steerflow.data.index import Chunks
from steerflow.learn.config import AmortisedConfig, FlowMatchingConfig
from steerflow.learn.part_networks import AmortisedGradient
from steerflow.learn.path import interpolate
from steerflow.learn.teacher import Teacher

# The largest weight times the gradient's scale. Estimates are of size 1, as scaled actions are; good weights have been found at
# 0.05 to 0.25 of that.
_REACH = 0.5


class Points(NamedTuple):
    """What is learnt from."""

    observations: Float[Array, "points obs"]
    estimates: Float[Array, "points flat"]
    gradients: Float[Array, "points flat"]


def network_settings(config: AmortisedConfig, flow: FlowMatchingConfig) -> dict[str, Any]:
    return {"hidden": config.hidden}


def init(
    network: AmortisedGradient, config: AmortisedConfig, teacher: Teacher, key: Key[Array, ""]
) -> AmortisedGradient:
    """The network with its scale: the root mean square of ``g`` at the estimates from pure noise in ``teacher.states``."""
    states, models = teacher.states, teacher.models
    noise = jax.random.normal(key, (states.shape[0], network.body.output.bias.shape[0]))
    estimates = jnp.clip(noise + models.velocity(states, noise, jnp.zeros(())), -1.0, 1.0)
    scale = jnp.sqrt(jnp.mean(models.q_gradient(states, estimates) ** 2))
    return eqx.tree_at(lambda n: n.scale, network, scale)


def network_of(learnt: AmortisedGradient) -> AmortisedGradient:
    return learnt


def loss(
    network: AmortisedGradient, chunks: Chunks, config: AmortisedConfig, teacher: Teacher, key: Key[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    # The points depend on the scale, which is not learnt.
    points = points_of(teacher, chunks, key, jax.lax.stop_gradient(network.scale))
    return distillation_loss(network, points._replace(observations=teacher.sees(points.observations)))


def points_of(teacher: Teacher, chunks: Chunks, key: Key[Array, ""], scale: Float[Array, ""]) -> Points:
    """Two points for each chunk: an estimate on the way to its action, and the same moved by guidance of a random weight.

    ``w`` is uniform on [0, 0.5 / scale], ``t`` on [0, 1]. Observations stay in the data's units.
    """
    noise_key, time_key, weight_key = jax.random.split(key, 3)
    observations, batch, models = chunks.observations, chunks.observations.shape[0], teacher.models
    action = chunks.actions.reshape(batch, -1)
    t = jax.random.uniform(time_key, (batch,))
    a = interpolate(jax.random.normal(noise_key, action.shape), action, t)
    estimate = jnp.clip(a + (1 - t[:, None]) * models.velocity(observations, a, t), -1.0, 1.0)
    gradient = models.q_gradient(observations, estimate)
    weight = _REACH / scale * jax.random.uniform(weight_key, (batch, 1))
    moved = jnp.clip(estimate + weight * gradient, -1.0, 1.0)
    return Points(
        jnp.concatenate([observations, observations]),
        jnp.concatenate([estimate, moved]),
        jnp.concatenate([gradient, models.q_gradient(observations, moved)]),
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
