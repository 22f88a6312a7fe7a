from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class GradStep:
    """Ascent on Q from the flow's end: ``a <- clip(a + weight dQ/da (s, a), -1, 1)``, ``steps`` times.

    GradStep of the QGF paper (3 to 5 steps) and, with one step, OPEX (arXiv 2406.09329). With ``sign`` each dimension moves by
    the weight, whatever the gradient's size. Nothing keeps the action near the data but the weight.
    """

    steps: int = 3
    sign: bool = False
    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a: Float[Array, "batch flat"], weight: Float[Array, " batch"]):
        a, reach = jnp.clip(a, -1.0, 1.0), jnp.zeros_like(a[:, 0])
        for _ in range(self.steps):
            g = models.q_gradient(observations, a)
            g = jnp.sign(g) if self.sign else g
            a, reach = jnp.clip(a + weight[:, None] * g, -1.0, 1.0), reach + jnp.linalg.norm(g, axis=-1)
        return a, reach
