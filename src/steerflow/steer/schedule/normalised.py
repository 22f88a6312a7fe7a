from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from steerflow.steer.schedule.window import Window


@dataclass(frozen=True)
class Normalised:
    """``w(t) = weight |v| / |g|`` per row: the weight is the guidance's share of the velocity's norm, free of Q's scale.

    A row whose gradient is zero is not steered. ``start`` and ``stop`` bound the window in which it acts.
    """

    start: float = 0.0
    stop: float = 1.0

    def __call__(self, models, weight, t, v, g):
        norm = jnp.linalg.norm(g, axis=-1)
        ratio = jnp.linalg.norm(v, axis=-1) / jnp.where(norm > 0, norm, 1.0)
        return Window(self.start, self.stop)(models, weight, t, v, g) * ratio

    def acts(self, t):
        return Window(self.start, self.stop).acts(t)
