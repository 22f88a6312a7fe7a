from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Softmax:
    """A candidate drawn with probability proportional to ``exp(q_i / temperature)``; 0 is best_of_n."""

    temperature: float = 1.0
    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, key, q):
        if self.temperature == 0:
            return jnp.argmax(q).astype(jnp.int32)
        return jax.random.categorical(key, q / self.temperature).astype(jnp.int32)
