from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from steerflow.steer.schedule.window import Window


@dataclass(frozen=True)
class Distance:
    """``w(t) = weight sqrt(d) / |g|`` per row, d dimensions: a trust region in distance from the reference action.

    The guidance then moves the action by ``weight`` in the root mean square over dimensions, to first order and if its
    direction stays the same; never by more. Actions are scaled to [-1, 1], so a weight of 0.1 is a twentieth of their range,
    whatever the critic's units. ``start`` and ``stop`` bound the window in which it acts; a displacement that is spread over a
    shorter window is smaller.
    """

    start: float = 0.0
    stop: float = 1.0

    def __call__(self, models, weight, t, v, g):
        norm = jnp.linalg.norm(g, axis=-1)
        inside = Window(self.start, self.stop)(models, weight, t, v, g)
        return inside * jnp.sqrt(g.shape[-1]).astype(g.dtype) / jnp.where(norm > 0, norm, jnp.inf)

    def acts(self, t):
        return Window(self.start, self.stop).acts(t)
