from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Array, Float


@dataclass(frozen=True)
class RK4:
    """The classical Runge-Kutta step: order 4, four evaluations a step. For reference solutions."""

    def __call__(self, field, a: Float[Array, "batch flat"], t, dt) -> Float[Array, "batch flat"]:
        k1 = field(a, t)
        k2 = field(a + dt / 2 * k1, t + dt / 2)
        k3 = field(a + dt / 2 * k2, t + dt / 2)
        k4 = field(a + dt * k3, t + dt)
        return a + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
