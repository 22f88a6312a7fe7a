"""Real-time chunking: a new chunk that goes on where the running one will be (Black et al. 2025, arXiv 2506.07339).

While a chunk is computed the robot executes actions of the one before; those are committed. The flow is guided towards them as
towards the known part of an image that is painted in:

    v' = v + min(cap, (1 - t) / (t r^2)) J^T W (committed - estimate),    r^2 = (1 - t)^2 / (t^2 + (1 - t)^2)

with the one-step estimate and its Jacobian J. It changes the reference flow, so any guidance can be added to it, and a weight of
0 still is the (continued) reference policy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from steerflow.steer.models import VelocityFn

# The paper's bound on the strength, which has no limit at t = 0 and t = 1.
_CAP = 5.0


class Prefix(NamedTuple):
    """What is committed, scaled to [-1, 1], and how firmly."""

    actions: Float[Array, "batch flat"]
    weights: Float[Array, " flat"]


def prefix_weights(chunk: int, committed: int, delay: int) -> np.ndarray:
    """How firmly each of ``chunk`` steps is committed, in [0, 1].

    1 for the first ``delay`` steps, which are executed before the new chunk can begin; then falling to 0 at step ``committed``,
    where the running chunk ends: ``c (e^c - 1) / (e - 1)`` with c falling linearly.
    """
    steps = np.arange(chunk)
    c = np.clip((committed - steps) / (committed - delay + 1), 0.0, 1.0)
    return np.where(steps < delay, 1.0, c * np.expm1(c) / np.expm1(1.0))


def with_prefix(velocity: VelocityFn, prefix: Prefix) -> VelocityFn:
    """The velocity of the flow that goes on from what is committed; ``a`` may be the batch several times over, as of samples."""

    def continued(observations, a, t):
        v, pull = jax.vjp(lambda x: velocity(observations, x, t), a)
        committed = jnp.tile(prefix.actions, (len(a) // len(prefix.actions), 1))
        error = prefix.weights * (committed - (a + (1 - t) * v))
        strength = jnp.minimum(_CAP, (t**2 + (1 - t) ** 2) / jnp.maximum(t * (1 - t), 1e-6))
        return v + strength * (error + (1 - t) * pull(error)[0])

    return continued
