from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Window:
    """``w(t) = weight`` for start <= t < stop, else 0. Late windows act where the one-step estimate is good."""

    start: float = 0.0
    stop: float = 1.0

    def __call__(self, weight, t, v, g):
        return jnp.where((t >= self.start) & (t < self.stop), jnp.asarray(weight, g.dtype), 0.0)
