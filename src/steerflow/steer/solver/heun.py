from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Array, Float


@dataclass(frozen=True)
class Heun:
    """``a + dt/2 (k1 + k2)`` with ``k1 = f(a, t)``, ``k2 = f(a + dt k1, t + dt)``: order 2, two evaluations a step."""

    def __call__(self, field, a: Float[Array, "batch flat"], t, dt) -> Float[Array, "batch flat"]:
        k1 = field(a, t)
        k2 = field(a + dt * k1, t + dt)
        return a + dt / 2 * (k1 + k2)
