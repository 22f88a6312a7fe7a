from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float, Key

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Gaussian:
    """``a_0 ~ N(0, scale^2 I)``. A scale below 1 narrows what the reference policy does; 1 is what it was trained with."""

    scale: float = 1.0

    asks: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, models: Models, keys: Key[Array, " batch"], observations: Float[Array, "batch obs"], flat: int
    ) -> Float[Array, "batch flat"]:
        return self.scale * jax.vmap(lambda key: jax.random.normal(key, (flat,), observations.dtype))(keys)
