from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Keep:
    """No refinement: the flow's end is the action."""

    asks: ClassVar[tuple[str, ...]] = ()

    def __call__(self, models: Models, observations, a: Float[Array, "batch flat"], weight):
        return a, jnp.zeros_like(a[:, 0])
