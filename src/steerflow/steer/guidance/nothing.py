from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Nothing:
    """No guidance: the flow samples the reference policy (behaviour cloning)."""

    asks: ClassVar[tuple[str, ...]] = ()

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        return jnp.zeros_like(v)
