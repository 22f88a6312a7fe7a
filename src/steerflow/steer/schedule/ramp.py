from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Ramp:
    """``w(t) = weight (first + (last - first) t)``: grows or falls linearly over flow time."""

    first: float = 0.0
    last: float = 1.0

    def __call__(self, models, weight, t, v, g):
        return jnp.asarray(weight, g.dtype) * (self.first + (self.last - self.first) * t)
