from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Window:
    """``w(t) = weight`` for start <= t < stop, else 0. Late windows act where the one-step estimate is good.

    Outside the window the guidance is not asked, which saves its network calls.
    """

    start: float = 0.0
    stop: float = 1.0

    def __call__(self, models, weight, t, v, g):
        return jnp.where(self.acts(t), jnp.asarray(weight, g.dtype), 0.0)

    def acts(self, t):
        return (t >= self.start) & (t < self.stop)
