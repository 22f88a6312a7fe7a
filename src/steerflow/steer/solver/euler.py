from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Array, Float


@dataclass(frozen=True)
class Euler:
    """``a + dt f(a, t)``: order 1, one evaluation a step. QGF's choice, with 10 steps."""

    def __call__(self, field, a: Float[Array, "batch flat"], t, dt) -> Float[Array, "batch flat"]:
        return a + dt * field(a, t)
