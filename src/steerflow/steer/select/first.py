from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp


@dataclass(frozen=True)
class First:
    """The first candidate: a plain sample."""

    asks: ClassVar[tuple[str, ...]] = ()

    def __call__(self, key, q):
        return jnp.zeros((), jnp.int32)
