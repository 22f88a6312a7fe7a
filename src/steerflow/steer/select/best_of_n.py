from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp


@dataclass(frozen=True)
class BestOfN:
    """The candidate of highest Q: ``argmax_i q_i`` (IDQL, QC). Many candidates find the critic's errors."""

    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, key, q):
        return jnp.argmax(q).astype(jnp.int32)
