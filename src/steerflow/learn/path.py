"""The straight path from noise to action, and its velocity. Flow time t: 0 = noise, 1 = action."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from steerflow.learn.config import FlowMatchingConfig


def interpolate(
    noise: Float[Array, "batch flat"], action: Float[Array, "batch flat"], t: Float[Array, " batch"]
) -> Float[Array, "batch flat"]:
    """``a_t = (1 - t) noise + t action`` (Lipman et al. 2023, conditional optimal transport)."""
    return (1 - t[:, None]) * noise + t[:, None] * action


def target_velocity(
    noise: Float[Array, "batch flat"], action: Float[Array, "batch flat"]
) -> Float[Array, "batch flat"]:
    """``d a_t / d t = action - noise``."""
    return action - noise


def flow_times(key: Key[Array, ""], batch: int, config: FlowMatchingConfig) -> Float[Array, " batch"]:
    """Flow times of a batch: uniform on [0, 1), or on the grid {0, 1/K, ..., K/K} of QGF's code."""
    if config.flow_time == "uniform":
        return jax.random.uniform(key, (batch,))
    return jax.random.randint(key, (batch,), 0, config.grid_steps + 1).astype(jnp.float32) / config.grid_steps
