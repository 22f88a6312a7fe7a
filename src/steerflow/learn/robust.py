"""RobustQ: a critic of noisy chunks, ``Q_r(s, a_t, t)``, so that its gradient may be taken where the flow is.

With ``a_t = (1 - t) a_0 + t a_1`` for the data's action ``a_1``, fresh noise ``a_0`` and ``t`` uniform on [0, 1], it minimises

    mean (Q_r(s, a_t, t) - aggregate_e Q_e(s, a_1))^2        and so approaches        E[Q(s, a_1) | s, a_t]

The paper (arXiv 2606.11087) trains it beside policy and critic; here it learns from a finished critic, which does not move.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from steerflow.data.index import Chunks
from steerflow.learn.config import FlowMatchingConfig, RobustConfig
from steerflow.learn.part_networks import NoisyCritic
from steerflow.learn.path import interpolate
from steerflow.learn.teacher import Teacher


def network_settings(config: RobustConfig, flow: FlowMatchingConfig) -> dict[str, Any]:
    return {"hidden": config.hidden, "time_frequency": flow.time_frequency}


def init(network: NoisyCritic, config: RobustConfig, teacher: Teacher, key: Key[Array, ""]) -> NoisyCritic:
    return network


def network_of(learnt: NoisyCritic) -> NoisyCritic:
    return learnt


def loss(
    network: NoisyCritic, chunks: Chunks, config: RobustConfig, teacher: Teacher, key: Key[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss above. Reported beside it: ``unexplained``, its share of the target's variance. Noise hides the action, so that
    this stays above 0 even for a perfect ``Q_r``."""
    noise_key, time_key = jax.random.split(key)
    action = chunks.actions.reshape(len(chunks.actions), -1)
    t = jax.random.uniform(time_key, action.shape[:1])
    a = interpolate(jax.random.normal(noise_key, action.shape), action, t)
    target = teacher.models.q(chunks.observations, action)  # type: ignore[misc]
    squared = jnp.mean((network(teacher.sees(chunks.observations), a, t) - target) ** 2)
    return squared, {"unexplained": squared / jnp.maximum(jnp.var(target), 1e-12), "target_mean": jnp.mean(target)}
