"""CFGRL (arXiv 2505.23458): a velocity ``v_o(s, a_t, t)`` of all actions (o = 0) and of those of positive advantage (o = 1).

With noise ``a_0``, the data's action ``a_1``, ``a_t`` between them, and the advantage of a frozen critic and value, it minimises

    mean 1[aggregate_e Q_e(s, a_1) - V(s) > 0] |v_1(s, a_t, t) - (a_1 - a_0)|^2  +  0.1 |v_0(s, a_t, t) - (a_1 - a_0)|^2

The difference ``v_1 - v_0`` points to better actions; a flow is guided by a multiple of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from steerflow.data.index import Chunks
from steerflow.learn.config import FlowMatchingConfig, OptimalConfig
from steerflow.learn.part_networks import OptimalityVelocity
from steerflow.learn.path import flow_times, interpolate, target_velocity
from steerflow.learn.teacher import Teacher

# The weight of the second term, as in the paper's code.
_UNCONDITIONAL = 0.1


def network_settings(config: OptimalConfig, flow: FlowMatchingConfig) -> dict[str, Any]:
    return {"hidden": config.hidden, "time_frequency": flow.time_frequency}


def init(
    network: OptimalityVelocity, config: OptimalConfig, teacher: Teacher, key: Key[Array, ""]
) -> OptimalityVelocity:
    return network


def network_of(learnt: OptimalityVelocity) -> OptimalityVelocity:
    return learnt


def loss(
    network: OptimalityVelocity, chunks: Chunks, config: OptimalConfig, teacher: Teacher, key: Key[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss above, over the steps that lie in the recording and their dimensions; both terms see the same noise and time,
    which is drawn as for the policy. Reported beside it: ``optimal``, the share of chunks with a positive advantage, and
    ``unconditional_loss``, comparable with the policy's."""
    batch, chunk, _ = chunks.actions.shape
    observations, action = chunks.observations, chunks.actions.reshape(batch, -1)
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, action.shape)
    t = flow_times(time_key, batch, teacher.flow)
    a, target = interpolate(noise, action, t), target_velocity(noise, action)
    seen = teacher.sees(observations)
    advantage = teacher.models.q(observations, action) - teacher.value(observations)  # type: ignore[misc]
    better = (advantage > 0).astype(a.dtype)

    def matching(optimal: bool, weight: Float[Array, " batch"]) -> Float[Array, ""]:
        error = (network(seen, a, t, optimal) - target).reshape(batch, chunk, -1)
        per_step = weight[:, None] * jnp.mean(error**2, axis=-1)
        return jnp.sum(per_step * chunks.step_mask) / jnp.maximum(jnp.sum(chunks.step_mask), 1.0)

    conditional, unconditional = matching(True, better), matching(False, jnp.ones_like(better))
    return conditional + _UNCONDITIONAL * unconditional, {
        "optimal": jnp.mean(better),
        "unconditional_loss": unconditional,
    }
