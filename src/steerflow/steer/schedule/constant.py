from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Constant:
    """``w(t) = weight``: QGF's schedule. The weight's unit is action per unit of Q."""

    def __call__(self, models, weight, t, v, g):
        return jnp.asarray(weight, g.dtype)
