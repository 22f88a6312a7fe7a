from __future__ import annotations

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Key


@dataclass(frozen=True)
class Gaussian:
    """``a_0 ~ N(0, scale^2 I)``. A scale below 1 narrows what the reference policy does; 1 is what it was trained with."""

    scale: float = 1.0

    def __call__(self, key: Key[Array, ""], observation: Float[Array, " obs"], flat: int) -> Float[Array, " flat"]:
        return self.scale * jax.random.normal(key, (flat,), observation.dtype)
